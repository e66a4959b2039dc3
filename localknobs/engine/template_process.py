"""Renders chat templates in a process of its own, under limits: `python -m localknobs.engine.template_process`.

A chat template is a program from a stranger's file. It runs in jinja2's immutable sandbox, which
stops it from reaching Python, and under limits of processor time and memory, which stop nested
loops and giant strings. One JSON object a line in, one out.
"""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from typing import Any, NoReturn

CPU_SECONDS = 2
"""A real template takes milliseconds."""
MEMORY_BYTES = 768 * 2**20
LONGEST_OUTPUT = 32 * 2**20
"""Characters a template may write."""


class TemplateRefused(Exception):
    """The template itself said no (`raise_exception`)."""


def limit_memory() -> None:
    """Cap the address space of this process, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time() -> None:
    """Allow this process so many more seconds of processor time from now on; it is killed beyond."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        allowed = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def make_environment() -> Any:
    """Return the sandbox with the names that templates of the hub expect (transformers, chat_template_utils.py)."""
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says, for training; here it is only what it encloses."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> NoReturn:
        raise TemplateRefused(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def render(environment: Any, request: dict[str, Any]) -> str:
    """Return the text of one request: its `template` with its `variables`."""
    pieces, length = [], 0
    for piece in environment.from_string(request["template"]).generate(**request["variables"]):
        pieces.append(piece)
        length += len(piece)
        if length > LONGEST_OUTPUT:
            raise TemplateRefused("it writes without end")
    return "".join(pieces)


def main() -> None:
    """Answer requests until standard input ends."""
    environment = make_environment()
    limit_memory()
    for line in sys.stdin:
        limit_time()
        try:
            reply = {"text": render(environment, json.loads(line))}
        except MemoryError:
            reply = {"error": "it takes too much memory"}
        except Exception as error:  # whatever a stranger's template raises is an answer, not a crash
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
