"""What an answer sends while it is being written, and what a loaded model says of itself.

Plain frozen records, importable without llama.cpp; the worker sends them as JSON lines, the parent
gives them to whoever reads `Engine.stream`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from localknobs.engine.view import SamplerView
from localknobs.knobs import Value


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


FinishReason = Literal["end", "stop", "length", "context", "stopped"]
"""Why an answer ended: the model's own end token, a stop string, the `n_predict` limit, a full
context, or the user."""


@dataclass(frozen=True, slots=True)
class PromptRead:
    """Progress of reading the prompt, in tokens; `reused` of them were still in the cache."""

    done: int
    total: int
    reused: int


@dataclass(frozen=True, slots=True)
class TextArrived:
    """The next piece of the answer; one event may carry several tokens.

    Args:
        text: Whole characters only.
        generated_tokens: Tokens of this answer so far.
        context_used: Tokens in the context now.
        tokens_per_s: Speed of this answer so far.
        drafted_tokens: Tokens guessed ahead so far.
        accepted_tokens: Those of them that were written.
    """

    text: str
    generated_tokens: int
    context_used: int
    tokens_per_s: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0


def draft_status(draft: str, drafted: int, accepted: int, gain: float = 0.0) -> str:
    """Return how drafts do, as short as a status line needs it; empty where nobody guesses.

    Args:
        draft: The knob: who may guess.
        drafted: Tokens guessed so far.
        accepted: Those of them that were written.
        gain: Speed against the same without drafts; 0 when not known.
    """
    if draft == "none":
        return ""
    mode = "auto: " if draft == "auto" else ""
    if not drafted:
        return f"{mode}no drafts"
    speed = f" {gain:.2f}x" if gain else ""
    return f"{mode}drafts {accepted / drafted:.0%}{speed}"


@dataclass(frozen=True, slots=True)
class SamplerChanged:
    """New sampler values took effect.

    Args:
        at_token: Index, within this answer, of the first token drawn with them.
        at_character: Length of the answer's text when they took effect.
        changes: Knob name to new value, only those that differ.
    """

    at_token: int
    at_character: int
    changes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Noted:
    """Something the user should know that is no error."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class Stats:
    """Exact counts and times of one answer.

    Args:
        drafted_tokens: Tokens guessed ahead and checked.
        accepted_tokens: Those of them that were written.
        drafted_by: Who guessed the accepted ones, `ngram` or `model`, the most successful first.
        draft_gain: Speed against the same without drafts, as measured in between; 0 when not known.
        dropped_tokens: Tokens of the conversation, its prompt and this answer, that the model did not see at the end,
            as the context was full; dropped now, or by an earlier answer.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    context_used: int = 0
    context_size: int = 0
    time_to_first_token_s: float = 0.0
    prompt_tokens_per_s: float = 0.0
    tokens_per_s: float = 0.0
    threads: int = 0
    seed: int = -1
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    drafted_by: tuple[str, ...] = ()
    draft_gain: float = 0.0
    dropped_tokens: int = 0

    @property
    def draft_text(self) -> str:
        """How drafts did, empty when there were none."""
        if not self.drafted_tokens:
            return ""
        share = self.accepted_tokens / self.drafted_tokens
        by = f" by {' and '.join(self.drafted_by)}" if self.drafted_by else ""
        gain = f", {self.draft_gain:.2f} times as fast as without" if self.draft_gain else ""
        return f"{self.accepted_tokens} of {self.drafted_tokens} guessed tokens accepted ({share:.0%}){by}{gain}"


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of an answer."""

    reason: FinishReason
    stats: Stats


NamedToken = tuple[int, str, float]
"""A token, its bytes in hex (a control token's are its spelling), and the logarithm of its probability."""


@dataclass(frozen=True, slots=True)
class TokensScored:
    """How sure the model was of tokens of the answer, before any sampler; sent only when asked for.

    Args:
        first: Which token of the answer the first one is, from 0.
        scores: For each token: the length of the answer's text with it, its probability, and the entropy in bits of
            the distribution it was drawn from. -1 and -1 for a token that nobody drew, or whose scores are not kept.
        named: Where `Plan.likeliest` asks for it, for each token: itself and then the likeliest ones in its place, as
            (token, its bytes in hex, logarithm of its probability before any sampler); none for a score of -1.
    """

    first: int
    scores: tuple[tuple[int, float, float], ...]
    named: tuple[tuple[NamedToken, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Looked:
    """The reply to a look at the samplers, also in the middle of an answer.

    Args:
        number: The look's own number.
        view: What there is to see; None when there is nothing.
        trouble: Why there is nothing, with what to do about it.
    """

    number: int
    view: SamplerView | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class ContextDropped:
    """The context was full, and something was dropped; what a context meter shows.

    Ranges are (begin, end) of the conversation's tokens, its prompt and this answer. Where whole turns were dropped
    they are no more in the prompt, so only counts are known.

    Args:
        policy: Why these: `turns`, `sinks`, `middle`, `attended`, or `window` for an emulated sliding window.
        way: How the rest closed up: `shift`, `hole`, or `reread`.
        held: What the context holds now.
        dropped: What was dropped so far.
        total: Tokens of the conversation so far.
        at_token: Tokens of this answer when it happened; 0 before it began.
        dropped_tokens: How many tokens are dropped now.
        dropped_turns: How many of the oldest turns are dropped now, where whole turns are.
    """

    policy: str
    way: str
    held: tuple[tuple[int, int], ...]
    dropped: tuple[tuple[int, int], ...]
    total: int
    at_token: int
    dropped_tokens: int
    dropped_turns: int = 0

    @property
    def short_text(self) -> str:
        """How much is dropped, for a meter."""
        if self.dropped_turns:
            return f"{self.dropped_turns} {'turn' if self.dropped_turns == 1 else 'turns'} dropped"
        return f"{self.dropped_tokens:,} dropped"

    @property
    def text(self) -> str:
        """What happened, as a sentence."""
        what = {
            "turns": "the oldest turn is" if self.dropped_turns == 1 else f"the {self.dropped_turns} oldest turns are",
            "window": "the window moved on, and what left it is",
            "attended": "what received least attention is",
            "middle": "the middle is",
            "sinks": "what stood behind the beginning is",
        }[self.policy]
        how = {"shift": "the rest moved up", "hole": "the rest stays in place", "reread": "the rest was read afresh"}
        return (
            f"The context is full: {what} dropped ({self.dropped_tokens:,} of {self.total:,} tokens so far); "
            f"{how[self.way]}."
        )


Event = PromptRead | TextArrived | SamplerChanged | Noted | TokensScored | Looked | ContextDropped | Finished


@dataclass(frozen=True, slots=True)
class ParkedCache:
    """What came of putting a conversation's cache aside, or of taking it back.

    Args:
        tokens: Tokens that were put aside or taken back; 0 when nothing was.
        size_bytes: What they take.
        note: Why nothing was, for the user; empty when all is well or there simply was nothing.
    """

    tokens: int = 0
    size_bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model says of itself.

    Args:
        description: Architecture, size and quantization, such as `llama 8.03B Q4_K_M`.
        size_bytes: Bytes of all tensors.
        context_size: Tokens the context really has (llama.cpp may round the wish up).
        context_trained: Tokens the model was trained with.
        chat_template: Source text of the template, None when the file has none.
        recommended: The file's own `general.sampling.*` values as knob values, may be empty.
        system_info: llama.cpp's line of CPU and backend features.
        devices: Names of the devices that hold layers.
        pooling: How its file makes one vector of a text's states, such as `mean`; empty where it says nothing.
        notes: What was decided at load and why (threads, extra buffers, context size).
    """

    path: str
    name: str
    architecture: str
    description: str
    parameters: int
    size_bytes: int
    context_size: int
    context_trained: int
    vocabulary_size: int
    chat_template: str | None
    recommended: Mapping[str, Value] = field(default_factory=dict)
    system_info: str = ""
    devices: tuple[str, ...] = ()
    pooling: str = ""
    notes: tuple[str, ...] = ()
