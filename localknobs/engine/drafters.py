"""Who guesses the next tokens: what a drafter is, and how it finds its place in a text that others change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

NGRAM, MODEL = "ngram", "model"
ALIGNED = 8
"""Last tokens by which a place in a text is recognized.

Comparing all of it would take longer than a draft in a long context; a wrong answer costs a wrong guess only.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How right guesses of one kind were, or would have been, in a part of the text that was drawn meanwhile.

    Args:
        kind: Of the guesses, such as `ngram 6`.
        drafts: Guesses, of one or several tokens each.
        right, tried: Their tokens that were right, and that were compared; none is after the first wrong one.
    """

    kind: str
    drafts: int
    right: int
    tried: int


class Drafter(Protocol):
    """What guesses tokens.

    Attributes:
        name: Its kinds of drafts begin with it.
        kinds: Of its drafts, the surest last.
        share: Guess of what a drafted token costs against one of the model that writes.
        auditions: Whether finding out how right it is takes work, beyond comparing texts.
        read_s: Seconds that its last draft needed to catch up with the text, before it began.
    """

    name: str
    kinds: tuple[str, ...]
    share: float
    auditions: bool
    read_s: float

    def follow(self, tokens: Sequence[int], *, judge: bool) -> tuple[int, list[Verdict]]:
        """Take what the text has more now.

        Args:
            tokens: The text, which may also have lost a part, or be another one.
            judge: Whether what is new was drawn by the model, so that guesses can be compared with it.

        Returns:
            The steps that the new part would have taken with its guesses, and how right these were.
        """

    def price(self, tokens: Sequence[int]) -> float:
        """Return the seconds that `audition` takes at least."""

    def audition(self, tokens: Sequence[int], written: int, allowed_s: float) -> list[Verdict]:
        """Find out how right it would have been at the end of the text, of which so many tokens were drawn."""

    def look(self, tokens: Sequence[int], allowed_s: float) -> tuple[str, float] | None:
        """Return what kind of draft it has for what follows, and the seconds before it can begin.

        Args:
            tokens: The text; `follow` was called with it.
            allowed_s: Seconds that it may take to know more of the text, where that is of use.
        """

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return at most `count` tokens that may follow; `look` was called with the same tokens."""


def known_part(tokens: Sequence[int], held: Sequence[int], count: int, expected: int) -> int | None:
    """Return where in a text what somebody holds of it ends; None when the text is another one.

    Args:
        tokens: The text now. Something may have been dropped from its middle since.
        held: What is held.
        count: How many of these, from the first, are of the text as it was.
        expected: Where they end if nothing was dropped.
    """
    tail = list(held[max(0, count - ALIGNED) : count])
    size = len(tail)
    if size <= expected <= len(tokens) and list(tokens[expected - size : expected]) == tail:
        return expected
    if size < ALIGNED:
        return None
    last = tail[-1]
    for place in range(min(len(tokens), expected), size - 1, -1):  # dropping moves it to the front
        if tokens[place - 1] == last and list(tokens[place - size : place]) == tail:
            return place
    return None
