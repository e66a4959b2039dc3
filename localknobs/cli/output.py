"""What the verbs write with: tables and lists that fit the terminal, sizes, notes, JSON.

Data goes to standard output, notes and progress to standard error. In a pipe nothing is shortened,
wrapped or coloured.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from localknobs.terminal_text import cells, printable, shortened

NARROWEST = 8
"""Columns below which a table's column is not shortened."""


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output is, None when it is none."""
    return max(20, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def heading(text: str) -> str:
    """Return a text in bold where the terminal can and the user has not forbidden it."""
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[1m{text}\x1b[0m"


def one_line(text: object) -> str:
    """Return a text from a file as one line that cannot steer the terminal."""
    return printable(" ".join(str(text).split()))


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[int] = (),
    whole: Sequence[int] = (),
    indent: str = "",
) -> str:
    """Lay out rows in columns; on a terminal the widest columns are shortened until a row fits one line.

    Args:
        headings: One a column.
        rows: Cells, one a column.
        right: Columns that are aligned to the right, such as sizes.
        whole: Columns that are not shortened as long as others can be.
        indent: Put before every line.
    """
    plain = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(headings, *plain, strict=True)]
    for columns in ([column for column in range(len(widths)) if column not in whole], range(len(widths))):
        _narrow(widths, columns, len(indent))
    lines = []
    for row in ([*headings], *plain):
        fitted = []
        for column, (text, width) in enumerate(zip(row, widths, strict=True)):
            text = shortened(text, width)
            padding = " " * (width - cells(text))
            fitted.append(padding + text if column in right else text + padding)
        lines.append((indent + "  ".join(fitted)).rstrip())
    return "\n".join([heading(lines[0]), *lines[1:]])


def _narrow(widths: list[int], columns: Sequence[int], indent: int) -> None:
    """Take from the widest of some columns until a row fits the terminal."""
    limit = terminal_width()
    while limit and indent + sum(widths) + 2 * (len(widths) - 1) > limit:
        widest = max(columns, key=lambda column: widths[column], default=None)
        if widest is None or widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1


def wrapped(text: str, indent: str = "", first: str | None = None) -> str:
    """Return a paragraph broken at words to fit the terminal; one long line in a pipe.

    Args:
        text: One paragraph.
        indent: Put before every line.
        first: Put before the first line instead, such as a padded label.
    """
    first = indent if first is None else first
    width = terminal_width()
    if not width:
        return first + text
    width = min(width, 100)  # longer lines are hard to read
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False) or first


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Lay out labels with their values, one pair a line, long values with a hanging indent."""
    shown = [(label, one_line(value)) for label, value in pairs]
    width = max((len(label) for label, _ in shown), default=0) + 2
    return "\n".join(wrapped(value, " " * width, f"{label:<{width}}") for label, value in shown)


def note(text: str) -> None:
    """Tell the user something beside the data, on standard error."""
    print(f"note: {printable(text)}", file=sys.stderr)


def ask(question: str, *, default: bool = False) -> bool:
    """Ask on standard error, and return whether the answer was yes; the end of the input is a no.

    Args:
        question: Without the choices.
        default: What Enter alone means.
    """
    print(f"{printable(question)} [{'Y/n' if default else 'y/N'}] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes") or (default and answer == "\n")


def print_json(data: Any) -> None:
    """Print one JSON document; what JSON has no form for (paths, infinities) becomes text."""
    print(json.dumps(_plain(data), ensure_ascii=False, indent=2, default=str, allow_nan=False))


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, float) and data - data != 0:
        return str(data)
    return data


class AnswerWriter:
    """Writes an answer to standard output as it arrives: on a terminal broken at words and without control characters.

    The word being written is held back until it is whole, since only then is it known where it fits.
    Blocks of code (between lines of three backquotes) are not broken.
    """

    def __init__(self) -> None:
        self._width = terminal_width()
        self._column = 0
        self._spaces = ""
        self._word = ""
        self._line_start = ""
        self._in_code = False

    def write(self, text: str) -> None:
        """Write a piece of the answer at once, but for its last word."""
        if self._width is None:
            self._out(text)
        else:
            self._out("".join(map(self._take, printable(text))))

    def end(self) -> None:
        """Write what was held back, and end the line."""
        self._out(self._flush_word() + "\n")
        self._column, self._spaces, self._line_start = 0, "", ""

    def _take(self, char: str) -> str:
        if char == "\n":
            ready = self._flush_word() + self._spaces + "\n"
            if self._line_start.startswith("```"):
                self._in_code = not self._in_code
            self._column, self._spaces, self._line_start = 0, "", ""
            return ready
        if len(self._line_start) < 3:
            self._line_start += char
        if char in " \t":
            ready = self._flush_word()
            self._spaces += char
            return ready
        wide = cells(char) == 2  # Chinese and the like: a line may break before every letter
        ready = self._flush_word() if wide else ""
        self._word += char
        return ready + (self._flush_word() if wide else "")

    def _flush_word(self) -> str:
        """Return the held word with the spaces before it, on a new line when it does not fit this one."""
        if not self._word:
            return ""
        spaces, word = self._spaces, self._word
        self._spaces = self._word = ""
        width = cells(spaces.expandtabs()) + cells(word)
        if self._width and self._column and not self._in_code and self._column + width > self._width:
            self._column = cells(word)
            return "\n" + word
        self._column += width
        return spaces + word

    @staticmethod
    def _out(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def show_progress(text: str) -> None:
    """Show a passing line on standard error when it is a terminal, over the one before."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def clear_progress() -> None:
    """Wipe the passing line."""
    show_progress("")
