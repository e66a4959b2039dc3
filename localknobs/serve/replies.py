"""The JSON of replies, whole and in pieces, in OpenAI's forms; llama.cpp's `timings` and our notes beside them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any

from localknobs.engine import Event, Stats, TextArrived, TokensScored
from localknobs.engine.events import NamedToken

FINISH = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}
"""The engine's reason for an answer's end to OpenAI's."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A token of an answer.

    Args:
        begin: Characters of the answer before it.
        place: Itself, then the likeliest ones in its place.
    """

    begin: int
    place: tuple[NamedToken, ...]


@dataclass(slots=True)
class Pieces:
    """Puts text and the tokens that make it together: the engine sends them one after the other.

    Args:
        scored: Whether tokens are wanted.
    """

    scored: bool
    _text: str = ""
    _shown: int = 0
    _end: int = 0
    _tokens: list[Scored] = field(default_factory=list)

    def take(self, event: Event) -> tuple[str, list[Scored]] | None:
        """Take an event; return text that is ready, with its tokens."""
        if isinstance(event, TextArrived):
            self._text += event.text
            return None if self.scored else self.rest()
        if isinstance(event, TokensScored) and self.scored:
            for (end, *_), place in zip(event.scores, event.named, strict=True):
                self._tokens.append(Scored(self._end, place))
                self._end = end
            return self.rest() if self._text else None
        return None

    def rest(self) -> tuple[str, list[Scored]] | None:
        """Return the text that is left, with its tokens; those of a stop text, which is not shown, never come."""
        text, self._text = self._text, ""
        self._shown += len(text)
        ready = [token for token in self._tokens if token.begin < self._shown]
        self._tokens = self._tokens[len(ready) :]
        return (text, ready) if text else None


class Reply:
    """One reply of either kind.

    Args:
        model: The name that the server gives its model.
        chat: Whether it is one of `/v1/chat/completions`, else of `/v1/completions`.
        scored: Whether it tells about tokens.
        echo: Text before the answer.
    """

    def __init__(self, model: str, *, chat: bool, scored: bool, echo: str = "") -> None:
        self.chat = chat
        self.scored = scored
        self.echo = echo
        kind = "chat.completion" if chat else "text_completion"
        self._whole_kind, self._piece_kind = kind, f"{kind}.chunk" if chat else kind
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}", "created": int(time()), "model": model,
        }  # fmt: skip

    def opening(self) -> dict[str, Any] | None:
        """Return what a stream begins with, None for nothing."""
        if self.chat:
            return self._chunk({"delta": {"role": "assistant", "content": ""}, "finish_reason": None})
        return self.piece(self.echo, []) if self.echo else None

    def piece(self, text: str, tokens: Sequence[Scored]) -> dict[str, Any]:
        """Return a piece of a stream."""
        said: dict[str, Any] = {"delta": {"content": text}} if self.chat else {"text": text}
        return self._chunk({**said, "finish_reason": None, **self._scores(tokens)})

    def closing(self, finish: str, stats: Stats, notes: Sequence[str]) -> dict[str, Any]:
        """Return the last piece of a stream, but for the counts."""
        said: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        return {**self._chunk({**said, "finish_reason": finish}), **_more(stats, notes)}

    def counts(self, stats: Stats) -> dict[str, Any]:
        """Return the piece with the counts that follows where it is asked for."""
        return {**self._head, "object": self._piece_kind, "choices": [], "usage": usage_of(stats)}

    def whole(
        self, text: str, tokens: Sequence[Scored], finish: str, stats: Stats, notes: Sequence[str]
    ) -> dict[str, Any]:
        """Return a reply in one piece."""
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self.chat else {"text": self.echo + text}
        )
        choice = {"index": 0, **said, "finish_reason": finish, "logprobs": None, **self._scores(tokens)}
        return {
            **self._head, "object": self._whole_kind, "choices": [choice], "usage": usage_of(stats),
            **_more(stats, notes),
        }  # fmt: skip

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "object": self._piece_kind, "choices": [{"index": 0, **choice}]}

    def _scores(self, tokens: Sequence[Scored]) -> dict[str, Any]:
        if not self.scored:
            return {}
        return {"logprobs": _chat_scores(tokens) if self.chat else _text_scores(tokens, len(self.echo))}


def usage_of(stats: Stats) -> dict[str, Any]:
    """Return OpenAI's counts."""
    return {
        "prompt_tokens": stats.prompt_tokens, "completion_tokens": stats.generated_tokens,
        "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.reused_tokens},
    }  # fmt: skip


def _more(stats: Stats, notes: Sequence[str]) -> dict[str, Any]:
    """Return what is beside OpenAI's keys: llama.cpp's speeds, and what the user should know."""
    read, written = stats.prompt_tokens - stats.reused_tokens, stats.generated_tokens
    timings = {
        "cache_n": stats.reused_tokens, "prompt_n": read, "prompt_per_second": stats.prompt_tokens_per_s,
        "predicted_n": written, "predicted_per_second": stats.tokens_per_s,
        "time_to_first_token_ms": round(stats.time_to_first_token_s * 1000, 3), "seed": stats.seed,
    }  # fmt: skip
    if stats.drafted_tokens:
        timings |= {"draft_n": stats.drafted_tokens, "draft_n_accepted": stats.accepted_tokens}
    return {"timings": timings, **({"notes": list(notes)} if notes else {})}


def _chat_scores(tokens: Sequence[Scored]) -> dict[str, Any]:
    described = []
    for token in tokens:
        own, *likeliest = (_named(one) for one in token.place)
        described.append({**own, "top_logprobs": likeliest})
    return {"content": described}


def _named(token: NamedToken) -> dict[str, Any]:
    number, data, logprob = token
    spelling = bytes.fromhex(data)
    return {
        "id": number, "token": spelling.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(spelling),
    }  # fmt: skip


def _text_scores(tokens: Sequence[Scored], before: int) -> dict[str, Any]:
    places = [[_named(one) for one in token.place] for token in tokens]
    return {
        "tokens": [place[0]["token"] for place in places],
        "token_logprobs": [place[0]["logprob"] for place in places],
        "top_logprobs": [{one["token"]: one["logprob"] for one in place[1:]} for place in places],
        "text_offset": [before + token.begin for token in tokens],
    }
