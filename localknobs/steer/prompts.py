"""Lists of prompts, one a line, as llama.cpp's cvector-generator reads them; nothing here knows a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from localknobs.convert.imatrix import text_bytes
from localknobs.errors import BadFile, BadValue
from localknobs.paths import written_whole

MOST_LINES = 10_000
"""Prompts of a list that are taken: each is a pass of the model, and its states are held until the end."""
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))")
_ESCAPED: Mapping[str, str] = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\"}


def read_prompts(path: Path) -> tuple[str, ...]:
    r"""Return the prompts of a file: its lines that are not empty, with `\n`, `\t`, `\"`, `\\` and `\x41` read.

    Raises:
        NotFound, BadFile: it is missing, no UTF-8 text, or too long.
        BadValue: it holds no prompt.
    """
    lines = prompt_lines(text_bytes(path, "Name a list of prompts, one a line.").decode("utf-8-sig"))
    prompts = tuple(map(unescaped, lines))
    if not prompts:
        raise BadValue(f"{path} holds no prompt", "Write one a line; a line break inside a prompt is written \\n.")
    if len(prompts) > MOST_LINES:
        raise BadFile(f"{path} holds {len(prompts):,} prompts, and {MOST_LINES:,} can be read", "Take fewer of them.")
    return prompts


def prompt_lines(text: str) -> list[str]:
    """Return the lines of a text that are prompts: those that are not empty."""
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def read_pairs(positive: Path, negative: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return two lists of the same length.

    Raises:
        NotFound, BadFile: one is missing or no text.
        BadValue: one holds no prompt, or they are not equally long.
    """
    more, less = read_prompts(positive), read_prompts(negative)
    if len(more) != len(less):
        raise BadValue(
            f"{positive} holds {len(more):,} prompts and {negative} {len(less):,}",
            "They are taken as pairs, line by line: give both the same number.",
        )
    return more, less


def save_lists(output: Path, positive: str, negative: str) -> tuple[Path, Path]:
    """Write two lists beside the vector that will be made of them; return their paths.

    Raises:
        BadValue: the place cannot be written.
    """
    written = []
    try:
        for which, text in (("positive", positive), ("negative", negative)):
            path = output.with_suffix(f".{which}.txt")
            with written_whole(path) as beside:
                beside.write_text("\n".join([*prompt_lines(text), ""]), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise BadValue(
            f"{output.parent} cannot be written: {error.strerror or error}", "Choose another name."
        ) from None
    return written[0], written[1]


def unescaped(line: str) -> str:
    r"""Return a line with its escapes read: `\n` and the like; any other backslash stays as it is."""

    def read(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else _ESCAPED.get(found[2], found[0])

    return _ESCAPE.sub(read, line)


def shipped_prompts(name: str) -> Path:
    """Return a list of the example: `positive`, `negative`, `unknown` or `known`.

    The first two make a vector of the built-in model that says "I do not know", the others are wordings that these
    do not hold, to try it on: questions outside of what it learned, and questions that it can answer.
    """
    return Path(__file__).with_name("data") / f"{name}.txt"
