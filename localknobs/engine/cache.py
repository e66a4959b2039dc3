"""What the context of one model holds: the tokens whose keys and values are in llama.cpp's cache, oldest first."""

from __future__ import annotations

from collections.abc import Sequence

from localknobs.engine.llama import NO_CACHE_SLOT, LoadedModel
from localknobs.errors import ContextFull, LocalknobsError


class TokenCache:
    """The tokens in a model's cache; everything that adds to it or cuts it goes through here.

    Args:
        model: The loaded model, with an empty cache.

    Attributes:
        tokens: What the cache holds and the answer keeps. Tokens decoded ahead on trial are not among them.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.tokens: list[int] = []

    @property
    def full(self) -> bool:
        """Whether no further token has room."""
        return len(self.tokens) >= self.model.context_size

    @property
    def room(self) -> int:
        """How many further tokens have room."""
        return self.model.context_size - len(self.tokens)

    def reuse(self, tokens: Sequence[int]) -> int:
        """Keep the common beginning of the cache and a prompt; return its length, less than the prompt's."""
        common = 0
        # The last token is always decoded again: its logits are needed.
        for have, want in zip(self.tokens, tokens[:-1], strict=False):
            if have != want:
                break
            common += 1
        if not self.model.keep(common):
            # A recurrent state cannot be cut: begin at zero.
            self.model.clear()
            common = 0
        del self.tokens[common:]
        return common

    def add(self, tokens: Sequence[int]) -> int:
        """Decode tokens and hold them; return llama.cpp's code, 0 when it is done."""
        code = self.model.decode(tokens)
        if not code:
            self.tokens += tokens
        return code

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
        self.tokens.clear()
        self.model.clear()
