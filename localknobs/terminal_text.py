"""Text from a model or a file, made safe for a terminal: nothing in it may steer the terminal."""

from __future__ import annotations

import re

# C0 without tab and newline, DEL, C1, and the marks that turn the direction of text around.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text whose control characters are shown as `\x1b` instead of being sent."""
    return _STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text) if _STEERING.search(text) else text
