"""Find the verb, run it, and turn every error into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, value or name of a knob or preset, 3 a file that is
missing, damaged or not supported, or too little memory, 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

VERBS = {
    "chat": "chat with a model in this terminal, or answer one prompt",
    "serve": "offer a model to other programs over HTTP, as OpenAI's interface has it",
    "sample": "show what each sampler makes of the next token, without drawing it",
    "determinism": "say whether a model answers the same twice, and what makes it differ",
    "ls": "list the models on this machine",
    "show": "show what is inside a model file",
    "fit": "say which file of a model fits, on this machine or another, at which context",
    "search": "find models on the hub",
    "pull": "fetch a model from the hub; goes on where it was stopped",
    "import": "bring models from anywhere into the list: where they lie, by links, or copied",
    "rm": "remove a model of yours",
    "prune": "remove what killed jobs and given-up downloads left behind",
    "context": "show how far a model sees, and make it see further",
    "convert": "make a GGUF file of a Hugging Face model, with adapters if wanted",
    "merge": "put adapters into their base model, which becomes a model of its own",
    "quantize": "make a smaller file of a model, or several in one pass",
    "verify": "prove that a GGUF file is the model of its checkpoint",
    "eval": "measure models, and what a change did to them, in one report",
    "ab": "let two models or settings answer the same prompt, and count the votes",
    "reports": "list the reports of eval, print one again, or write it to a file",
    "diagnose": "from a symptom to the first lever, after a cheap probe on the model",
    "redo": "make a file again, as its card says, and compare",
    "finetune": "train an adapter on examples of yours, on this machine",
    "control-vector": "make a direction that steers answers, from two lists of prompts",
    "imatrix": "measure which weights matter, for better small files",
    "bench": "measure how fast a model reads and writes, over threads, batches, offload, cache types",
    "knobs": "list every knob, or explain one knob or lever",
    "doctor": "say what this machine and this build can do, and how to mend what is missing",
    "tui": "open the terminal interface (also: localknobs with no verb)",
}
_MODULES = {"import": "importing", "control-vector": "control_vector"}
"""Verbs that are no names in Python, and the modules they are in."""
_EXIT_CODES = {
    "UnknownName": 2,
    "BadValue": 2,
    "NotFound": 3,
    "BadFile": 3,
    "Unsupported": 3,
    "Offline": 3,
    "NotEnough": 3,
    "MissingExtra": 3,
    "Stopped": 130,
}
_ALIASES = {"get": "pull"}
STOPPED = 130
"""Exit code after Ctrl+C, as shells have it."""


def help_text() -> str:
    """Return what `localknobs --help` prints; plain text, so that no parser need be imported for it."""
    lines = "\n".join(f"  {verb:<14} {text}" for verb, text in VERBS.items())
    return (
        "usage: localknobs [VERB] [OPTIONS]\n\n"
        "Every knob you can turn on a model after it is trained, on your own machine.\n"
        "With no verb, opens the terminal interface on the built-in model.\n\n"
        f"verbs:\n{lines}\n\n"
        "options:\n  --help     this text; after a verb, its own\n  --version  the version\n"
        "  --offline  open no connection, whatever is asked for; also after a verb\n\n"
        'try:\n  localknobs chat -p "What does temperature do?" --preset deterministic\n'
    )


def run(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: Words after `localknobs`.

    Returns:
        The exit code.
    """
    try:
        _mend_streams()
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing to say, and nothing may be flushed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if os.environ.get("LOCALKNOBS_DEBUG"):
            raise
        return _tell(error)


def _mend_streams() -> None:
    """Give closed streams (`<&-`, `>&-`) a place to go to, and let no character stop the output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # for the life of the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _dispatch(arguments: list[str]) -> int:
    if "--offline" in arguments[:1]:
        _go_offline()
        arguments = arguments[1:]
    first = arguments[0] if arguments else ""
    first = _ALIASES.get(first, first)
    if first == "help" and len(arguments) > 1:
        first, arguments = arguments[1], [arguments[1], "--help"]
    if first in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if first in ("-V", "--version"):
        from localknobs import version

        print(f"localknobs {version()}")
        return 0
    verb, rest = (first, arguments[1:]) if first and not first.startswith("-") else ("tui", arguments)
    return _run_verb(verb, rest) if verb in VERBS else _unknown_verb(verb)


def _unknown_verb(verb: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(verb, VERBS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "`localknobs --help` lists the verbs."
    if verb.endswith(".gguf"):
        hint = f"To chat with a file: localknobs chat {verb}"
    print(f"localknobs: There is no verb {verb!r}. {hint}", file=sys.stderr)
    return 2


def _run_verb(verb: str, arguments: list[str]) -> int:
    import importlib

    from localknobs.flags import Parser

    module = importlib.import_module(f"localknobs.cli.{_MODULES.get(verb, verb)}")
    parser = Parser(f"localknobs {verb}", VERBS[verb][0].upper() + VERBS[verb][1:] + ".")
    module.add_arguments(parser)
    parser.add_argument("--offline", action="store_true", help="open no connection, whatever is asked for")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as leaving:  # --help and usage errors; returned, so that what was printed is flushed in one place
        return leaving.code if isinstance(leaving.code, int) else 0
    if options.offline:
        _go_offline()
    began = perf_counter()
    code: int = module.run(options)
    if code == 0 and hasattr(module, "sources"):
        _record(verb, arguments, lambda: module.sources(options), perf_counter() - began)
    return code


def _record(verb: str, arguments: list[str], sources: Callable[[], Sequence[Path]], took_s: float) -> None:
    """Write a card beside what was made; that it cannot be written is no failure of the work."""
    from localknobs.cli.output import note
    from localknobs.cli.progress import measured, written
    from localknobs.errors import LocalknobsError
    from localknobs.ledger import add_measurement, record

    try:
        if written:
            record(written, verb, arguments, sources(), took_s)
        for path, measurement in measured:
            add_measurement(path, measurement)
    except (LocalknobsError, OSError) as error:
        note(str(error))
    finally:
        written.clear()
        measured.clear()


def _go_offline() -> None:
    from localknobs.hub.offline import go_offline

    go_offline()


def _tell(error: Exception) -> int:
    """Say on one line what went wrong; return the exit code."""
    from localknobs.errors import LocalknobsError
    from localknobs.terminal_text import printable

    if not isinstance(error, LocalknobsError):  # a fault of ours: still no traceback on the user's screen
        kind = type(error).__name__
        print(
            f"localknobs: Unexpected {kind}: {printable(str(error))}. Set LOCALKNOBS_DEBUG=1 to see where.",
            file=sys.stderr,
        )
        return 1
    print(f"localknobs: {printable(str(error))}", file=sys.stderr)
    for line in error.log_tail[-8:]:
        print(f"  log: {printable(line)}", file=sys.stderr)
    return next((_EXIT_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _EXIT_CODES), 1)
