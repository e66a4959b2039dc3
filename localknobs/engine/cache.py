"""What the context of one model holds: the tokens whose keys and values are in llama.cpp's cache, oldest first.

Tokens can be taken out of the middle. What was there is remembered as a gap, so that the same conversation, a turn
longer, still fits what is held. A position of the model that a dropped token leaves empty is a hole; holes close
when the later tokens are shifted, or all is read again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from localknobs.engine.llama import NO_CACHE_SLOT, LoadedModel
from localknobs.errors import ContextFull, LocalknobsError


@dataclass(slots=True)
class Gap:
    """Tokens that were dropped from between others.

    Args:
        at: How many held tokens are before it.
        lost: The tokens, which a prompt has there still; none when the prompt has them no more either.
        hole: Positions of the model that are empty here.
    """

    at: int
    lost: array[int] = field(default_factory=lambda: array("i"))
    hole: int = 0


class TokenCache:
    """The tokens in a model's cache; everything that adds to it or cuts it goes through here.

    Args:
        model: The loaded model, with an empty cache.

    Attributes:
        tokens: What the cache holds and the answer keeps. Tokens decoded ahead on trial are not among them.
        gaps: Where tokens were dropped, in order.
        capacity: Tokens it may hold; the context's size, or less where a window is emulated.
        on_change: Told of every change but adding: the range of `tokens` that is gone.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.tokens: list[int] = []
        self.gaps: list[Gap] = []
        self.capacity = model.context_size
        self.on_change: Callable[[int, int], None] = lambda begin, end: None

    @property
    def full(self) -> bool:
        """Whether no further token has room."""
        return len(self.tokens) >= self.capacity

    @property
    def room(self) -> int:
        """How many further tokens have room."""
        return self.capacity - len(self.tokens)

    @property
    def in_model(self) -> int:
        """How many tokens the model holds, those decoded ahead on trial among them."""
        return self.model.tokens_in_cache() - sum(gap.hole for gap in self.gaps)

    @property
    def dropped(self) -> int:
        """How many tokens were dropped from what is held now."""
        return sum(len(gap.lost) for gap in self.gaps)

    def position_of(self, index: int) -> int:
        """Return the model's position of a held token, or of the next one."""
        return index + sum(gap.hole for gap in self.gaps if gap.at <= index)

    def held_ranges(self) -> tuple[tuple[int, int], ...]:
        """Return which ranges of the conversation's tokens are held, as (begin, end)."""
        ranges, begin, passed = [], 0, 0
        for gap in [*self.gaps, Gap(len(self.tokens))]:
            if gap.at > begin:
                ranges.append((begin + passed, gap.at + passed))
            begin, passed = gap.at, passed + len(gap.lost)
        return tuple(ranges)

    def dropped_ranges(self) -> tuple[tuple[int, int], ...]:
        """Return which ranges of the conversation's tokens were dropped, as (begin, end)."""
        ranges, passed = [], 0
        for gap in self.gaps:
            if gap.lost:
                ranges.append((gap.at + passed, gap.at + passed + len(gap.lost)))
            passed += len(gap.lost)
        return tuple(ranges)

    def reuse(self, tokens: Sequence[int]) -> int:
        """Keep the common beginning of the cache and a prompt, and what was dropped from it.

        Returns:
            How many of the prompt's tokens need no reading, less than all: they are held, or were dropped.
        """
        held, place = self._common(tokens, through_gaps=len(tokens) > self.capacity)
        if self.gaps and held + len(tokens) - place < self.capacity // 2 < len(tokens):
            # Little is left of a long conversation that was gone back in: better to read its newer part again.
            held, place = self._common(tokens, through_gaps=False)
        if self.cut(held):
            return place
        self.clear()  # a recurrent state cannot be cut
        return 0

    def _common(self, tokens: Sequence[int], *, through_gaps: bool) -> tuple[int, int]:
        """Return how many held tokens, and how many of the prompt's, are the same."""
        held = place = 0
        last = len(tokens) - 1  # is always decoded again: its logits are needed
        for gap in [*self.gaps, Gap(len(self.tokens))]:
            while held < gap.at and place < last and self.tokens[held] == tokens[place]:
                held, place = held + 1, place + 1
            beyond = place + len(gap.lost)
            if held < gap.at or (gap.lost and not through_gaps) or beyond > last:
                break
            if gap.lost and array("i", tokens[place:beyond]) != gap.lost:
                break
            place = beyond
        return held, place

    def cut(self, count: int) -> bool:
        """Keep the first so many held tokens; False where the model cannot, or has not what they look back at."""
        position = self.position_of(count - 1) + 1 if count else 0
        if count < len(self.tokens) and not self.model.window_reaches(position):
            return False
        if not self.model.keep(position):
            return False
        if count < len(self.tokens):
            self.on_change(count, len(self.tokens))
        del self.tokens[count:]
        self.gaps = [gap for gap in self.gaps if gap.at <= count]
        if self.gaps and self.gaps[-1].at == count:
            self.gaps[-1].hole = 0  # the next token follows the last one that is left
            if not self.gaps[-1].lost:
                self.gaps.pop()
        return True

    def add(self, tokens: Sequence[int]) -> int:
        """Decode tokens and hold them; return llama.cpp's code, 0 when it is done."""
        code = self.model.decode(tokens)
        if not code:
            self.tokens += tokens
        return code

    def landed(self, tokens: Sequence[int]) -> None:
        """Hold those of the tokens that a stopped decode has done: whole micro-batches."""
        done = self.model.tokens_in_cache() - self.position_of(len(self.tokens))
        self.tokens += tokens[: max(0, done)]

    def skip(self, tokens: Sequence[int]) -> None:
        """Leave out tokens that a prompt has next, as if they had been held and dropped."""
        if self.gaps and self.gaps[-1].at == len(self.tokens):
            self.gaps[-1].lost.extend(tokens)
        else:
            self.gaps.append(Gap(len(self.tokens), array("i", tokens)))

    def drop(self, begin: int, end: int, *, forget: bool = False) -> bool:
        """Drop held tokens and leave a hole; False where the model cannot.

        Args:
            begin: First of the range of `tokens`.
            end: Behind its last.
            forget: The prompt has them no more either.
        """
        first = self.position_of(begin)
        if not self.model.drop_range(first, self.position_of(end - 1) + 1):
            return False
        made = Gap(begin)
        others: list[Gap] = []
        place = begin
        for gap in self.gaps:
            if begin <= gap.at <= end:
                made.lost.extend(self.tokens[place : gap.at])
                made.lost.extend(gap.lost)
                made.hole += gap.hole
                place = gap.at
            else:
                others.append(Gap(gap.at - (end - begin) * (gap.at > end), gap.lost, gap.hole))
        made.lost.extend(self.tokens[place:end])
        made.hole += end - begin
        if forget:
            made.lost = array("i")
        self.gaps = sorted([*others, made], key=lambda gap: gap.at)
        del self.tokens[begin:end]
        self.on_change(begin, end)
        return True

    def shift(self) -> None:
        """Move what is behind holes up, so that positions have none; the model does it with its next decode."""
        for gap in self.gaps:
            if gap.hole:
                self.model.move(self.position_of(gap.at), -gap.hole)
                gap.hole = 0
        self.gaps = [gap for gap in self.gaps if gap.lost]

    def read_again(self) -> int:
        """Compute all that is held afresh, without holes; return llama.cpp's code, 0 when it is done."""
        held, gaps = list(self.tokens), [Gap(gap.at, gap.lost) for gap in self.gaps if gap.lost]
        self.clear()
        for begin in range(0, len(held), self.model.batch_size):
            if code := self.add(held[begin : begin + self.model.batch_size]):
                return code
        self.gaps = gaps
        return 0

    def failed(self, code: int) -> LocalknobsError:
        """Empty the cache after a failed decode and return the error that says what happened."""
        # What the cache holds after a failure is not known: the next answer reads everything again.
        self.clear()
        if code == NO_CACHE_SLOT:
            return ContextFull(
                "The cache has no room for the next tokens",
                "Start a new conversation or load the model with a larger context (-c).",
            )
        return LocalknobsError(
            f"llama.cpp could not compute the next tokens (code {code})",
            "Try again; if it stays, load the model with fewer GPU layers (-ngl).",
        )

    def clear(self) -> None:
        """Empty the cache."""
        self.on_change(0, len(self.tokens))
        self.tokens.clear()
        self.gaps = []
        self.model.clear()
