"""From token bytes to text: characters split across tokens, and stop strings split across pieces."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Collects the bytes of tokens and gives out whole characters that cannot be part of a stop string.

    Args:
        stops: Texts that end the answer; they are not given out.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        # A lone surrogate cannot come out of a model, and a byte that is no UTF-8 becomes U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.length = 0  # characters given out so far

    @property
    def written(self) -> int:
        """Characters so far, those held back included."""
        return self.length + len(self._held)

    def push(self, data: bytes) -> str:
        """Take the bytes of one token; return what may be shown now. Sets `stopped` at a stop string."""
        return self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """Return what was held back, at the end of an answer."""
        tail = self._held + self._decoder.decode(b"", final=True) if not self.stopped else ""
        self._held = ""
        self.length += len(tail)
        return tail

    def set_stops(self, stops: Sequence[str]) -> None:
        """Use other stop strings from here on."""
        self._stops = tuple(stops)

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if self._stops:
            text = self._held + text
            self._held = ""
            found = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
            if found >= 0:
                self.stopped = True
                text = text[:found]
            elif keep := max((_overlap(text, stop) for stop in self._stops), default=0):
                text, self._held = text[:-keep], text[-keep:]
        elif self._held:
            text, self._held = self._held + text, ""
        self.length += len(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` are the beginning of `stop`."""
    for count in range(min(len(stop) - 1, len(text)), 0, -1):
        if stop.startswith(text[-count:]):
            return count
    return 0
