"""`localknobs serve [MODEL]`: a model over HTTP, for other programs."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from time import strftime
from typing import TYPE_CHECKING

from localknobs.cli.main import STOPPED
from localknobs.cli.output import note
from localknobs.cli.question import add_all_knob_flags, add_model_arguments, opened
from localknobs.errors import BadValue, LocalknobsError, NotFound
from localknobs.terminal_text import printable

if TYPE_CHECKING:
    from localknobs.serve.guard import Access


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.usage = "%(prog)s [MODEL] [--host ADDRESS] [--port N] [--api-key KEY] [--alias NAME] [KNOB FLAGS]"
    parser.epilog = (
        "Requests may name every sampling knob; the flags here are what counts where they do not. "
        "docs/serve.md says what is supported."
    )
    add_model_arguments(parser)
    section = parser.add_argument_group("server")
    section.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen at; 127.0.0.1 (the default) is reached from this machine alone, 0.0.0.0 from all",
    )  # fmt: skip
    section.add_argument("--port", type=int, default=8080, metavar="N", help="0 takes any free one; default 8080")
    section.add_argument(
        "--api-key", action="append", default=[], metavar="KEY",
        help="let in only who sends this key (Authorization: Bearer KEY); several times for several keys",
    )  # fmt: skip
    section.add_argument("--api-key-file", type=Path, metavar="FILE", help="the same, one key a line, not seen in `ps`")
    section.add_argument(
        "--alias", action="append", default=[], metavar="NAME",
        help="call the model this in replies, and let requests call it so; several times for several names",
    )  # fmt: skip
    section.add_argument(
        "--queue", type=int, default=32, metavar="N",
        help="requests that may wait while one is answered; one more is refused (503); default 32",
    )  # fmt: skip
    section.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a name this machine may be called by, such as one of a proxy; addresses and localhost always may",
    )  # fmt: skip
    section.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN",
        help="a web page that browsers may ask from, such as https://chat.example.com; none may by default",
    )  # fmt: skip
    section.add_argument("--log-disable", action="store_true", help="do not print a line for each request")
    add_all_knob_flags(parser)


def run(options: Namespace) -> int:
    """Load the model and answer requests until Ctrl+C or SIGTERM."""
    keys = _keys(options)
    if not 0 <= options.port <= 65535:
        raise BadValue(f"--port cannot be {options.port}", "It takes 0 to 65535.")
    if options.queue < 0:
        raise BadValue(f"--queue cannot be {options.queue}", "It takes 0 or more.")
    from localknobs.serve.guard import Access
    from localknobs.serve.server import bound_socket, serve, url_of

    access = Access(keys=keys, hosts=tuple(options.allow_host), origins=tuple(options.allow_origin))
    with bound_socket(options.host, options.port) as bound, opened(options) as (engine, sampler):
        names = list(dict.fromkeys([*options.alias, _name(options.model)]))
        _warn(bound.getsockname()[0], access)

        def ready() -> None:
            print(f"{names[0]} is served at {url_of(bound)}/v1 (Ctrl+C ends it)", flush=True)

        number = serve(
            engine, sampler.values, bound, names=names, access=access, most_waiting=options.queue, ready=ready,
            told=None if options.log_disable else _told, problem=_tell_problem,
        )  # fmt: skip
    if number == signal.SIGINT:
        print("Stopped.", file=sys.stderr)
        return STOPPED
    return 0


def _keys(options: Namespace) -> tuple[str, ...]:
    """Return the keys of the command line and of the file."""
    keys = list(options.api_key)
    if options.api_key_file:
        try:
            keys += options.api_key_file.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            raise NotFound(f"There is no file {options.api_key_file}", "Write one key a line into it.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadValue(f"{options.api_key_file} cannot be read: {error}", "It takes one key a line.") from None
        if not keys:
            raise BadValue(f"{options.api_key_file} holds no key", "Write one a line into it.")
    if wrong := [key for key in keys if not (key.isascii() and key.isprintable()) or not key.strip()]:
        raise BadValue(f"An API key cannot be {wrong[0]!r}", "It takes letters, digits and signs of ASCII.")
    return tuple(key.strip() for key in keys)


def _warn(address: str, access: Access) -> None:
    """Say loudly what others can do."""
    from ipaddress import ip_address

    if not ip_address(address).is_loopback and not access.keys:
        note(
            f"WARNING: anyone who reaches {address} can use this model, as no key is asked for. "
            "Give --api-key-file FILE, or leave --host out."
        )
    if "*" in access.origins and not access.keys:
        note("WARNING: any web page you open can use this model (--allow-origin '*' without an API key).")


def _name(model: str) -> str:
    """Return what the model is called where no alias is given: as it was asked for, a file by its name."""
    return Path(model).stem if model.endswith(".gguf") or os.sep in model and Path(model).exists() else model


def _told(line: str) -> None:
    print(f"{strftime('%H:%M:%S')} {printable(line)}", file=sys.stderr, flush=True)


def _tell_problem(error: Exception) -> None:
    """Say what went wrong in the server itself; the request has had its answer."""
    if not isinstance(error, LocalknobsError):
        if os.environ.get("LOCALKNOBS_DEBUG"):
            import traceback

            traceback.print_exception(error)
        return
    for line in error.log_tail[-8:]:
        print(f"  log: {printable(line)}", file=sys.stderr, flush=True)
