"""Models as the worker holds them: opened together, each with its own settings; logits of a run of tokens in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from localknobs.engine.adapters import put_on
from localknobs.engine.batch import Logits, TokenBatch, Tokens
from localknobs.engine.llama import LoadedModel
from localknobs.engine.settings import LoadSettings
from localknobs.engine.templates import ChatTemplate
from localknobs.errors import BadFile, LocalknobsError
from localknobs.gguf_info import read_header

PIECE_BYTES = 40 * 2**20
"""Most logits that are held of one model at a time; twice that while the next piece is computed."""


@dataclass(slots=True)
class OpenModel:
    """A model that is being measured.

    Args:
        number: Its place among all models of the run, the parent model first.
        label: Its name, for messages.
        model: The model.
        batch: Room for its tokens.
        inside: Tokens that the cache holds.
        template: The way from messages to tokens, once it is needed.
    """

    number: int
    label: str
    model: LoadedModel
    batch: TokenBatch
    inside: int = 0
    template: ChatTemplate | None = None

    def tokens_of(self, text: str) -> Tokens:
        """Return a text's tokens with the begin token that the model wants, control tokens read as plain text."""
        tokens = self.model.tokenize(text, special=False)
        begin = self.model.begin_token
        return np.array([begin, *tokens] if begin >= 0 else tokens, np.int32)

    def clear(self) -> None:
        """Empty the cache."""
        self.model.clear()
        self.inside = 0

    def keep(self, count: int) -> bool:
        """Drop everything after the first `count` tokens from the cache; False where the model cannot."""
        kept = self.model.keep(count)
        self.inside = count if kept else self.inside
        return kept

    def logits(self, tokens: Tokens, first_wanted: int, most_rows: int) -> Iterator[Logits]:
        """Compute tokens that follow what the cache holds; yield the logits of the wanted ones, piece by piece.

        Args:
            tokens: As many as fit the context.
            first_wanted: Index of the first whose logits are wanted.
            most_rows: Most tokens whose logits are held at a time.

        Yields:
            The logits of a piece: a view that the next piece overwrites.

        Shapes:
            result: (tokens of the piece, vocabulary).

        Raises:
            LocalknobsError: llama.cpp could not compute them.
        """
        for begin, end, wanted in pieces(len(tokens), first_wanted, self.model.batch_size, most_rows):
            code = self.batch.decode(tokens[begin:end], self.inside, wanted - begin)
            if code:
                raise LocalknobsError(
                    f"llama.cpp could not compute {self.label} (code {code})",
                    "A larger context (-c) or other cache types may be needed; the log tells more.",
                )
            self.inside += end - begin
            if wanted < end:
                found = self.batch.logits()
                if not np.isfinite(found[0, :8]).all():
                    raise BadFile(
                        f"{self.label} gives logits that are no numbers",
                        "The file is damaged, overflows in its types, or its cache types do not suit it.",
                    )
                yield found


def pieces(count: int, first_wanted: int, most_tokens: int, most_rows: int) -> Iterator[tuple[int, int, int]]:
    """Cut a run of tokens into calls, so that no call keeps too many logits.

    Yields:
        First token, end, and first wanted token of each call; the last two are equal where none is wanted.
    """
    if count <= most_tokens and count - first_wanted <= most_rows:
        yield 0, count, first_wanted
        return
    begin = 0
    while begin < first_wanted:
        end = min(first_wanted, begin + most_tokens)
        yield begin, end, end
        begin = end
    while begin < count:
        end = min(count, begin + min(most_rows, most_tokens))
        yield begin, end, begin
        begin = end


def open_models(worker: Any, order: dict[str, Any]) -> None:
    """Load models in place of those that are open; say what each has."""
    close_models(worker)
    for fields in order["models"]:
        settings = LoadSettings.from_plain(fields["settings"])
        worker.say({"loading": fields["label"]})
        # Without repacked weights: on some machines their instructions fault, and numbers stay comparable.
        model = LoadedModel(settings, order["context"], order["threads"], False, lambda done: None)
        put_on(model, read_header(settings.model), settings)
        worker.models.append(OpenModel(fields["number"], fields["label"], model, TokenBatch(model)))
        worker.say({
            "opened": fields["number"], "vocabulary": model.vocabulary_size, "context": model.context_size,
            "devices": list(model.devices), "size_bytes": model.size_bytes, "parameters": model.parameters,
        })  # fmt: skip


def close_models(worker: Any) -> None:
    """Free what is open."""
    for one in worker.models:
        one.batch.close()
        one.model.close()
    worker.models = []
