"""Find the verb, run it, and turn every error into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or value, 3 a file that is missing, damaged or not
supported, or too little memory, 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys

VERBS = {
    "chat": "chat with a model in this terminal, or answer one prompt",
    "ls": "list the models on this machine",
    "show": "show what is inside a model file",
    "knobs": "list every knob, or explain one knob or lever",
    "doctor": "say what this machine and this build can do, and how to mend what is missing",
    "tui": "open the terminal interface (also: localknobs with no verb)",
}
_EXIT_CODES = {
    "BadValue": 2,
    "NotFound": 3,
    "BadFile": 3,
    "Unsupported": 3,
    "NotEnough": 3,
    "MissingExtra": 3,
    "Stopped": 130,
}


def help_text() -> str:
    """Return what `localknobs --help` prints; plain text, so that no parser need be imported for it."""
    lines = "\n".join(f"  {verb:<8} {text}" for verb, text in VERBS.items())
    return (
        "usage: localknobs [VERB] [OPTIONS]\n\n"
        "Every knob you can turn on a model after it is trained, on your own machine.\n"
        "With no verb, opens the terminal interface on the built-in model.\n\n"
        f"verbs:\n{lines}\n\n"
        "options:\n  --help     this text; after a verb, its own\n  --version  the version\n\n"
        'try:\n  localknobs chat -p "What does temperature do?" --preset deterministic\n'
    )


def run(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: Words after `localknobs`.

    Returns:
        The exit code.
    """
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if first in ("-V", "--version"):
        from localknobs import version

        print(f"localknobs {version()}")
        return 0
    verb, rest = (first, arguments[1:]) if first and not first.startswith("-") else ("tui", arguments)
    if verb not in VERBS:
        return _unknown_verb(verb)
    return _guarded(verb, rest)


def _unknown_verb(verb: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(verb, VERBS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "`localknobs --help` lists the verbs."
    if verb.endswith(".gguf"):
        hint = f"To chat with a file: localknobs chat {verb}"
    print(f"localknobs: There is no verb {verb!r}. {hint}", file=sys.stderr)
    return 2


def _guarded(verb: str, arguments: list[str]) -> int:
    """Run a verb; whatever goes wrong becomes one line."""
    import importlib

    from localknobs.cli.flags import Parser
    from localknobs.errors import EngineDied, LocalknobsError

    module = importlib.import_module(f"localknobs.cli.{verb}")
    parser = Parser(
        prog=f"localknobs {verb}", description=VERBS[verb][0].upper() + VERBS[verb][1:] + ".", allow_abbrev=False
    )
    module.add_arguments(parser)
    try:
        options = parser.parse_args(arguments)
        code: int = module.run(options)
        sys.stdout.flush()
        return code
    except LocalknobsError as error:
        print(f"localknobs: {error}", file=sys.stderr)
        for line in error.log_tail[-8:] if isinstance(error, EngineDied) else ():
            print(f"  log: {line}", file=sys.stderr)
        if os.environ.get("LOCALKNOBS_DEBUG"):
            raise
        return next((_EXIT_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _EXIT_CODES), 1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing to say, and nothing may be flushed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # a fault of ours: still no traceback on the user's screen
        if os.environ.get("LOCALKNOBS_DEBUG"):
            raise
        print(
            f"localknobs: Unexpected {type(error).__name__}: {error}. Set LOCALKNOBS_DEBUG=1 to see where.",
            file=sys.stderr,
        )
        return 1
