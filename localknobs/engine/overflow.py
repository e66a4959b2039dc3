"""What is done when the context is full: who is dropped, and how the rest closes up; between turns and in answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from localknobs.engine.attention_scores import AttentionScores
from localknobs.engine.cache import TokenCache
from localknobs.engine.events import ContextDropped, Event
from localknobs.engine.llama import lib
from localknobs.engine.refusals import check_when_full, no_shift, why_no_shift
from localknobs.engine.rope import rope_of_load
from localknobs.engine.settings import LoadSettings
from localknobs.engine.templates import Prompt
from localknobs.errors import ContextFull
from localknobs.gguf_info import Header

DROP_SHARE = 4
"""A quarter of what may go goes at once: dropping has a price, and the recent window should stay long."""
ATTENDED_SHARE = 8
"""Of the least attended fewer go at once, since the next ones are chosen by newer scores."""
RECENT_SHARE = 4
"""The most recent quarter is never dropped for little attention: it had no time to receive any."""
WINDOW_SHARE = 8
"""An emulated window moves in blocks of this share of it."""
_ALIGNED = 32
"""Tokens that must be the same for a cache to be moved rather than read again."""

Way = Literal["shift", "hole", "reread"]


class Overflow:
    """Makes room in one model's cache, as the settings say.

    Args:
        cache: The model's.
        header: Of its file.
        settings: How it was loaded; the rows of `knobs/overflow.py` count.
        send: Takes the events.

    Raises:
        Unsupported: this model cannot do what is wished.
    """

    def __init__(
        self, cache: TokenCache, header: Header, settings: LoadSettings, send: Callable[[Event], None]
    ) -> None:
        self._cache = cache
        self._header = header
        self._send = send
        self._scores: AttentionScores | None = None
        self._prompt = Prompt([])
        self._protected = 0  # first tokens that are never dropped: the system prompt
        self._turns_dropped = 0
        self._left_out = 0  # tokens of these turns
        self._settings = settings
        self.use(settings)

    def use(self, settings: LoadSettings) -> None:
        """Take other settings, from the next answer on."""
        model = self._cache.model
        check_when_full(self._header, settings)
        if settings.drop_by == "shift" and (reason := self._why_no_shift(settings)):
            raise no_shift(reason)
        if settings.context_full == "attended" and self._scores is None:
            scores = AttentionScores(int(lib.llama_model_n_layer(model.pointer)))
            self._cache.clear()
            scores.attach(self._cache)
            self._scores = scores
        self._settings = settings
        window = settings.sliding_window
        self._block = max(1, window // WINDOW_SHARE)
        self._cache.capacity = model.context_size
        if window:
            self._cache.capacity = min(model.context_size, settings.n_sink + window + self._block)

    @property
    def policy(self) -> str:
        """Who is dropped; a window that is emulated drops what leaves it."""
        return "sinks" if self._settings.sliding_window else self._settings.context_full

    @property
    def dropped_tokens(self) -> int:
        """How many tokens of the conversation, its prompt and this answer, the model does not see now."""
        return self._left_out + self._cache.dropped

    # ---- before an answer ---------------------------------------------------------------------

    def begin(self, prompt: Prompt, question: Sequence[int], beginning: Sequence[int]) -> list[int]:
        """Take a prompt and return the tokens to read, in which the cache finds what it holds.

        Args:
            prompt: The conversation.
            question: Its tokens, never none.
            beginning: What the answer begins with.

        Raises:
            ContextFull: it does not fit, and what may be dropped is not enough.
        """
        cache, tokens = self._cache, [*question, *beginning]
        self._prompt = replace(
            prompt, tokens=tokens, without_turns=lambda count: [*prompt.without_turns(count), *beginning]
        )
        self._turns_dropped = self._turns_dropped if prompt.turns else 0
        self._protected = self._left_out = 0
        if len(tokens) < cache.capacity:
            self._turns_dropped = 0
            return tokens
        if self.policy == "stop":
            raise too_long(tokens, cache.capacity)
        if self.policy == "turns":
            return self._without_old_turns(tokens)
        self._protected = self._head()
        if self._protected >= cache.capacity // 2:
            raise ContextFull(
                f"The first {self._protected:,} tokens are kept always, and the context holds {cache.capacity:,}",
                "Shorten the system prompt, or load the model with a larger context (-c).",
                needed_tokens=2 * self._protected,
                available_tokens=cache.capacity,
            )
        return tokens

    def skip(self, tokens: Sequence[int], done: int) -> int:
        """Return how many of the unread tokens are left out before the next piece; they count as dropped."""
        cache = self._cache
        if self.policy != "middle" or len(tokens) < cache.capacity or len(cache.tokens) < self._middle():
            return 0
        unread = len(tokens) - done
        excess = len(cache.tokens) + unread - (cache.capacity - self._amount(self._middle()))
        if excess <= 0 or unread <= 1:
            return 0
        held = len(cache.tokens) - self._middle()
        if held > 0:  # what is held of the middle goes first
            self._drop([(self._middle(), self._middle() + min(held, excess))])
            excess -= held
        count = max(0, min(excess, unread - 1))
        if count:
            cache.skip(tokens[done : done + count])
            self._tell("reread", 0)
        return count

    def next_piece(self, tokens: Sequence[int], done: int, size: int) -> int:
        """Return how many tokens to read next, after making room for them.

        Raises:
            ContextFull: nothing may be dropped any more.
        """
        cache = self._cache
        before_middle = self._middle() - len(cache.tokens) if self.policy == "middle" else 0
        if before_middle > 0 and len(tokens) >= cache.capacity:
            size = min(size, before_middle)
        if cache.room < 1 and not self.make_room(0):
            raise too_long(tokens, cache.capacity)
        return min(size, cache.room, len(tokens) - done)

    def _head(self) -> int:
        """Return how many first tokens are kept always: the sinks, and the system prompt."""
        prompt = self._prompt
        head = self._settings.n_sink
        if prompt.turns > 1:
            shortest = prompt.without_turns(prompt.turns - 1)
            same = next(
                (at for at, (a, b) in enumerate(zip(prompt.tokens, shortest, strict=False)) if a != b), len(shortest)
            )
            head = max(head, same)
        return min(head, len(prompt.tokens))

    def _without_old_turns(self, tokens: list[int]) -> list[int]:
        """Return the prompt without its oldest turns, as few as make room for an answer."""
        cache, prompt = self._cache, self._prompt
        roomy = cache.capacity - max(1, cache.capacity // DROP_SHARE)
        kept = prompt.without_turns(self._turns_dropped) if 0 < self._turns_dropped < prompt.turns else tokens
        if self._turns_dropped and len(kept) < cache.capacity - self._block and self._goes_on(kept):
            self._follow(kept)
            self._left_out = len(tokens) - len(kept)
            return kept  # as before: the beginning stays, and so does what is held
        low, high = 1, prompt.turns - 1
        if high < 1:
            raise too_long(tokens, cache.capacity)
        while low < high:
            half = (low + high) // 2
            if len(prompt.without_turns(half)) <= roomy:
                high = half
            else:
                low = half + 1
        shorter = prompt.without_turns(low)
        if len(shorter) >= cache.capacity:
            raise too_long(shorter, cache.capacity)
        self._turns_dropped, self._left_out = low, len(tokens) - len(shorter)
        way = self._follow(shorter)
        held = len(shorter)
        self._send(
            ContextDropped(
                policy="turns", way=way, held=((0, held),), dropped=(), total=len(tokens), at_token=0,
                dropped_tokens=len(tokens) - held, dropped_turns=low,
            )
        )  # fmt: skip
        return shorter

    def _goes_on(self, kept: Sequence[int]) -> bool:
        """Return whether a prompt is of the conversation that is held, and not of another one that was as long."""
        begin = self._head()
        end = min(begin + _ALIGNED, len(kept), len(self._cache.tokens))
        return end > begin and list(kept[begin:end]) == self._cache.tokens[begin:end]

    def _follow(self, wanted: Sequence[int]) -> Way:
        """Drop what stands between the common beginning and the rest, where the rest is the same and can close up."""
        cache = self._cache
        held = cache.tokens
        same = next((at for at, (a, b) in enumerate(zip(held, wanted, strict=False)) if a != b), len(wanted))
        rest = list(wanted[same : same + _ALIGNED])
        if same >= len(held) or len(rest) < _ALIGNED or self._settings.drop_by == "reread":
            return "reread"
        for begin in range(same + 1, len(held) - _ALIGNED):
            if held[begin] == rest[0] and held[begin : begin + _ALIGNED] == rest:
                return self._drop([(same, begin)], forget=True)
        return "reread"

    # ---- in mid-answer ------------------------------------------------------------------------

    def make_room(self, at_token: int) -> bool:
        """Drop something, so that at least one more token has room; False when nothing may be dropped.

        Args:
            at_token: Tokens of the answer so far.
        """
        cache = self._cache
        if self.policy == "stop":
            return False
        if self.policy == "turns":
            return self._drop_turn(at_token)
        self._protected = self._protected or self._head()
        if self.policy == "attended" and self._scores:
            ranges = self._least_attended(self._scores)
        else:
            head = self._middle() if self.policy == "middle" else self._protected
            amount = self._block if self._settings.sliding_window else self._amount(head)
            ranges = [(head, head + amount)] if head + amount < len(cache.tokens) else []
        if not ranges:
            return False
        way = self._drop(ranges)
        self._tell(way, at_token)
        return not cache.full

    def _amount(self, head: int) -> int:
        return max(1, (self._cache.capacity - head) // DROP_SHARE)

    def _middle(self) -> int:
        """Return where the middle begins, which goes first: half of what the context holds stays before it."""
        return max(self._protected, self._cache.capacity // 2)

    def _least_attended(self, scores: AttentionScores) -> list[tuple[int, int]]:
        """Return ranges of held tokens that received least attention, between the head and the recent ones."""
        held = len(self._cache.tokens)
        end = held - self._cache.capacity // RECENT_SHARE
        count = max(1, self._cache.capacity // ATTENDED_SHARE)
        if end - self._protected < count:
            return []
        found = scores.scores(held)[self._protected : end]
        chosen = sorted(int(at) + self._protected for at in found.argsort(kind="stable")[:count])
        ranges: list[tuple[int, int]] = []
        for at in chosen:
            if ranges and ranges[-1][1] == at:
                ranges[-1] = ranges[-1][0], at + 1
            else:
                ranges.append((at, at + 1))
        return ranges

    def _drop_turn(self, at_token: int) -> bool:
        """Drop whole turns while an answer is written; the answer's own turn stays."""
        prompt, cache = self._prompt, self._cache
        present = prompt.without_turns(self._turns_dropped) if prompt.turns else prompt.tokens
        written = cache.tokens[len(present) :]
        if cache.tokens[: len(present)] != present:
            return False
        roomy = cache.capacity - max(1, cache.capacity // DROP_SHARE)
        for count in range(self._turns_dropped + 1, prompt.turns):
            shorter = prompt.without_turns(count)
            if len(shorter) + len(written) <= roomy or count == prompt.turns - 1:
                break
        else:
            return False
        if len(shorter) + len(written) >= cache.capacity:
            return False
        wanted = [*shorter, *written]
        way = self._follow(wanted)
        if cache.tokens != wanted:
            way = "reread"
            place = cache.reuse([*wanted, -1])
            while place < len(wanted):
                piece = wanted[place : place + cache.model.batch_size]
                if code := cache.add(piece):
                    raise cache.failed(code)
                place += len(piece)
        self._turns_dropped = count
        total = len(prompt.tokens) + len(written)
        self._left_out = total - len(wanted)
        self._send(
            ContextDropped(
                policy="turns", way=way, held=((0, len(wanted)),), dropped=(), total=total, at_token=at_token,
                dropped_tokens=total - len(wanted), dropped_turns=count,
            )
        )  # fmt: skip
        return True

    # ---- how --------------------------------------------------------------------------------------

    def _drop(self, ranges: Sequence[tuple[int, int]], *, forget: bool = False) -> Way:
        """Drop ranges of the held tokens and close up; return how.

        Raises:
            ContextFull: the model's memory cannot lose tokens.
        """
        cache, settings = self._cache, self._settings
        for begin, end in reversed(ranges):
            if not cache.drop(begin, end, forget=forget):
                raise ContextFull(
                    "This model keeps a state from which no token can be taken out",
                    "Start a new conversation, or load the model with a larger context (-c).",
                )
        shifts = not self._why_no_shift(settings)
        way: Way = "shift" if shifts else "hole"
        if settings.drop_by != "auto":
            way = settings.drop_by  # type: ignore[assignment]
        if way == "hole":
            # Beyond the trained length positions mean nothing: there holes must close.
            known = max(rope_of_load(self._header, settings).window, cache.model.context_size)
            if cache.position_of(len(cache.tokens)) + cache.room > known:
                way = "shift" if shifts else "reread"
        if way == "shift":
            cache.shift()
        elif way == "reread" and (code := cache.read_again()):
            raise cache.failed(code)
        return way

    def _why_no_shift(self, settings: LoadSettings) -> str:
        reason = why_no_shift(self._header, settings)
        if not reason and not self._cache.model.can_shift:
            reason = "llama.cpp cannot move positions in this model's cache"
        return reason

    def _tell(self, way: Way, at_token: int) -> None:
        cache = self._cache
        self._send(
            ContextDropped(
                policy="window" if self._settings.sliding_window else self.policy, way=way, held=cache.held_ranges(),
                dropped=cache.dropped_ranges(), total=len(cache.tokens) + cache.dropped, at_token=at_token,
                dropped_tokens=cache.dropped, dropped_turns=0,
            )
        )  # fmt: skip


def too_long(tokens: Sequence[int], capacity: int) -> ContextFull:
    """Return the error that says so, for a conversation of which nothing is dropped."""
    return ContextFull(
        f"The conversation has {len(tokens):,} tokens, and the context holds {capacity:,}",
        "Start a new conversation, shorten a message, load the model with a larger context (-c), "
        "or let it drop what is old (--context-full).",
        needed_tokens=len(tokens) + 1,
        available_tokens=capacity,
    )
