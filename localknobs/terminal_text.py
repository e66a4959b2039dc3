"""Text in a terminal: made safe, since nothing in a model or a file may steer it; measured and shortened."""

from __future__ import annotations

import re
from unicodedata import combining, east_asian_width

# C0 without tab and newline, DEL, C1, and the marks that turn the direction of text around.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text whose control characters are shown as `\x1b` instead of being sent."""
    return _STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text) if _STEERING.search(text) else text


def cells(text: str) -> int:
    """Return how many columns a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def shortened(text: str, width: int) -> str:
    """Return a text cut to a width, with an ellipsis when something is missing."""
    if cells(text) <= width:
        return text
    while text and cells(text) > width - 1:
        text = text[:-1]
    return text + "…"


def shortened_in_the_middle(text: str, width: int) -> str:
    """Return a text cut to a width, its beginning and its end kept."""
    if cells(text) <= width:
        return text
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    while head and tail and cells(head) + cells(tail) > width - 1:
        if cells(head) > cells(tail):
            head = head[:-1]
        else:
            tail = tail[1:]
    return f"{head}…{tail}"
