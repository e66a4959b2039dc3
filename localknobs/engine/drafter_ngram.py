"""Guesses from the text itself, where it repeats (prompt lookup); how right they are is read off the text too."""

from __future__ import annotations

from collections.abc import Sequence

from localknobs.engine.drafters import NGRAM, Verdict, known_part


class NgramDrafter:
    """Finds where the last tokens stood before, and guesses that the same follows again.

    The longest of the latest matches wins. Costs a few microseconds a token and little memory. It keeps what was
    dropped from the context: that may be repeated all the same.

    Args:
        shortest: Tokens that must be the same; matches of two and four times as many are told apart, as they
            are more often right.
        longest: Tokens of a guess, for judging what would have been guessed.

    Source: prompt lookup decoding (Saxena 2023); llama.cpp common/ngram-map.cpp.
    """

    name = NGRAM
    share = 0.0
    auditions = False
    read_s = 0.0
    LOOKED_AT = 8
    """Latest places with the same last tokens of which the longest match is taken."""
    MOST_KEPT = 4
    """Times the text's length that may be kept of what was dropped from it."""

    def __init__(self, shortest: int, longest: int) -> None:
        self._size = shortest
        self._longest = longest
        self.kinds = tuple(f"{NGRAM} {shortest * times}" for times in (1, 2, 4))
        self._text: list[int] = []
        self._ahead = 0  # places of `_text` before the first of the text now: these were dropped
        self._ends: dict[tuple[int, ...], int] = {}  # the latest place after these tokens
        self._earlier: dict[int, int] = {}  # the place before it after the same tokens
        self._judged = 0  # place from which on it was not judged yet
        self._found = 0

    def follow(self, tokens: Sequence[int], *, judge: bool) -> tuple[int, list[Verdict]]:
        """Enter what is new, and compare it with what would have been guessed there, draft by draft."""
        text, size, ends = self._text, self._size, self._ends
        known = known_part(tokens, text, len(text), len(text) - self._ahead)
        anew = known is None or len(text) > self.MOST_KEPT * len(tokens) + 4096
        if anew or (not judge and text != tokens[:known]):  # between answers it may be another conversation
            for kept in (text, ends, self._earlier):
                kept.clear()
            known, judge = 0, False
        assert known is not None
        first = len(text)
        text += tokens[known:]
        self._ahead = len(text) - len(tokens)
        self._judged = max(self._judged, first) if judge else len(text)
        steps, verdicts = 0, dict.fromkeys(self.kinds, (0, 0, 0))
        # The last place is what is looked for: nothing followed it yet.
        for end in range(max(size, first), len(text)):
            key = tuple(text[end - size : end])
            before = ends.get(key)
            if before is not None:
                self._earlier[end] = before
            if end >= self._judged:
                steps += 1
                self._judged = end + 1
                if before is not None:
                    length, begin = self._best_match(before, end)
                    right = self._run(begin, end)
                    compared = right + (right < self._longest and end + right < len(text))
                    self._judged = end + compared
                    kind = self._kind(length)
                    drafts, rights, tried = verdicts[kind]
                    verdicts[kind] = drafts + 1, rights + right, tried + compared
            ends[key] = end
        return steps, [Verdict(kind, *counts) for kind, counts in verdicts.items() if counts[0]]

    def price(self, tokens: Sequence[int]) -> float:
        """Return 0: following tells everything."""
        return 0.0

    def audition(self, tokens: Sequence[int], written: int, allowed_s: float) -> list[Verdict]:
        """Return nothing: following tells everything."""
        return []

    def look(self, tokens: Sequence[int], allowed_s: float) -> tuple[str, float] | None:
        """Find a match; its kind says how long it is."""
        text = self._text
        before = self._ends.get(tuple(text[-self._size :]))
        if before is None:
            return None
        length, self._found = self._best_match(before, len(text))
        return self._kind(length), 0.0

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return what followed the match; a match that reaches into its own end repeats."""
        begin = self._found
        known = self._text[begin : begin + count]
        while len(known) < count:
            known += known[: count - len(known)]
        return known

    def _kind(self, length: int) -> str:
        size = self._size
        return self.kinds[2 if length == 4 * size else 1 if length >= 2 * size else 0]

    def _best_match(self, before: int, end: int) -> tuple[int, int]:
        """Return the length of the longest match of what stands before `end`, and the place behind it."""
        longest, found, most = 0, before, 4 * self._size
        for _ in range(self.LOOKED_AT):
            length = self._match(before, end)
            if length > longest:
                longest, found = length, before
            if length == most or (earlier := self._earlier.get(before)) is None:
                break
            before = earlier
        return longest, found

    def _match(self, before: int, end: int) -> int:
        """Return how many tokens before two places are the same, up to four times the shortest."""
        text, length = self._text, self._size
        limit = min(4 * length, before)
        while length < limit and text[before - length - 1] == text[end - length - 1]:
            length += 1
        return length

    def _run(self, begin: int, end: int) -> int:
        """Return how many tokens behind two places are the same, up to a guess's longest."""
        text, count = self._text, 0
        limit = min(self._longest, len(text) - end)
        while count < limit and text[begin + count] == text[end + count]:
            count += 1
        return count
