"""Reading a text with all models: which chunks, in which groups of open models, and what was kept of them.

The parent's side; the worker's is `reading.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.errors import BadValue
from localknobs.evaluate.config import LEAST_CHUNKS, EvalConfig, Variant
from localknobs.evaluate.kept import KeptLogits
from localknobs.evaluate.results import TextUsed
from localknobs.evaluate.session import Clock, Session
from localknobs.evaluate.statistics import Divergence, Floats, divergence_of
from localknobs.evaluate.store import Records, RecordsOfModels, digest, evaluations_folder, unpack
from localknobs.jobs import Advanced, Job, Measured, Noted, Started

_ONE_VOCABULARY = "KL divergence needs one vocabulary: name the real parent with --base."


@dataclass(frozen=True, slots=True)
class TextPass:
    """How a text is read.

    Args:
        file: The text.
        name: As the report calls it.
        chunk_tokens: Tokens of a chunk.
        first: Place of the first token of a chunk whose prediction of the next counts; those before are context.
        against_base: Whether models are compared with the parent.
        mode: `exact` or `bounded`.
        least: Least chunks that are worth reading.
    """

    file: Path
    name: str
    chunk_tokens: int
    first: int
    against_base: bool
    mode: str
    least: int = LEAST_CHUNKS


@dataclass(frozen=True, slots=True)
class Readings:
    """What came of a pass, per model number one array a chunk.

    Args:
        used: What was read.
        surprises: Of every model.
        kls, same_top: Of every model but the parent; empty without one.
        outside: Mean probability outside of what the bounded mode kept.
    """

    used: TextUsed
    surprises: Mapping[int, list[Floats]]
    kls: Mapping[int, list[Floats]]
    same_top: Mapping[int, list[Floats]]
    outside: float
    mode: str

    def divergence(self, number: int) -> Divergence:
        """Return what is made of a model's comparison with the parent."""
        return divergence_of(self.kls[number], self.same_top[number], self.surprises[0], self.surprises[number])


def read_pass(
    session: Session,
    config: EvalConfig,
    variants: Sequence[tuple[int, Variant]],
    marks: Mapping[int, Mapping[str, Any]],
    reading: TextPass,
    clock: Clock,
) -> Job[Readings]:
    """Read a text with all models.

    Args:
        session: An open process.
        config: What was asked.
        variants: Models with their numbers, the parent first, which has the number 0.
        marks: What tells each model from another, by number.
        reading: How.
        clock: Time that it may take.

    Raises:
        BadValue: the text is too short, or the models' vocabularies differ from the parent's.
    """
    data = reading.file.read_bytes()
    sha = hashlib.sha256(data).hexdigest()
    about = {"text": sha, "chunk": reading.chunk_tokens, "first": reading.first}
    compared = reading.against_base
    opened = RecordsOfModels("chunk", restart=config.restart)
    stores: dict[int, Records] = {}
    for number, _variant in variants:
        what = {"measure": "text", **about, "model": marks[number]}
        if compared and number:
            what |= {"base": marks[0], "mode": reading.mode}
        elif compared and reading.mode == "bounded":
            what |= {"keeps": True}
        stores[number] = opened.open(what)
    kept = evaluations_folder() / f"{digest({**about, 'model': marks.get(0)})}.kept"
    try:
        plan = _Plan(config, reading, variants, stores, kept)
        yield from plan.run(session, clock)
        chunks = plan.finished()
    finally:
        opened.close()

    def column(key: str, numbers: Sequence[int], kind: Any = np.float64) -> dict[int, list[Floats]]:
        return {
            number: [unpack(stores[number].found[chunk][key], kind).astype(np.float64) for chunk in chunks]
            for number in numbers
        }

    numbers = [number for number, _ in variants]
    children = [number for number in numbers if number] if compared else []
    surprises = column("nll", numbers)
    outside = [stores[0].found[chunk].get("outside", 0.0) for chunk in chunks] if compared else [0.0]
    predicted = sum(map(len, surprises[numbers[0]]))
    used = TextUsed(
        reading.name, sha, len(data), plan.tokens, reading.chunk_tokens, len(chunks), plan.whole, predicted,
        plan.why(len(chunks)),
    )  # fmt: skip
    return Readings(
        used, surprises, column("kl", children), column("same", children, np.uint8), float(np.mean(outside)),
        reading.mode,
    )  # fmt: skip


def check_length(label: str, tokens: int, size: int, least: int) -> None:
    """Refuse a text that makes too few chunks.

    Raises:
        BadValue: it says how many tokens it takes.
    """
    if tokens < least * size:
        raise BadValue(
            f"The text has {tokens:,} tokens for {label}, and it takes {least * size:,}: {least} of {size:,}",
            "Give more text (--text), or smaller chunks (--chunk).",
        )


class _Plan:
    """Goes through the chunks with groups of models that are open together."""

    def __init__(
        self,
        config: EvalConfig,
        reading: TextPass,
        variants: Sequence[tuple[int, Variant]],
        stores: Mapping[int, Records],
        kept: Path,
    ) -> None:
        self._config = config
        self._reading = reading
        self._variants = list(variants)
        self._stores = stores
        self._kept = kept
        self._allowed: list[int] = []
        self._token_digest = ""
        self._width = 0
        self.tokens = 0
        self.whole = 0

    def run(self, session: Session, clock: Clock) -> Job[None]:
        """Read what is not read yet."""
        base = [self._variants[0]] if self._reading.against_base else []
        children = self._variants[len(base) :]
        if self._reading.mode == "bounded" and base:
            groups = [base, *([child] for child in children)]
        elif base:
            groups = [[*base, *children]] if self._fit_together() else [[*base, child] for child in children]
        else:
            groups = [[child] for child in children]
        for at, group in enumerate(groups):
            clock.begin_group(len(group), sum(map(len, groups[at:])))
            yield from self._read_group(session, group, clock, is_first=at == 0)

    def _fit_together(self) -> bool:
        from localknobs.hardware import available_memory_bytes

        sizes = sum(variant.settings.model.stat().st_size for _, variant in self._variants)
        free = available_memory_bytes()
        return not free or sizes < free // 2

    def _read_group(
        self, session: Session, group: list[tuple[int, Variant]], clock: Clock, *, is_first: bool
    ) -> Job[None]:
        names = ", ".join(variant.label for _, variant in group)
        yield Started(f"loading {names}", 0, "tokens")
        size = self._reading.chunk_tokens
        opened = session.open(group, size)
        self._check_tokens(session, group)
        self._check_vocabularies(dict(group), opened)
        keeping = self._reading.mode == "bounded" and group[0][0] == 0 and self._reading.against_base
        if keeping:
            kept_tokens = self.whole * (size - 1 - self._reading.first)
            if KeptLogits.create(self._kept, kept_tokens, opened[0]["vocabulary"]):
                self._stores[0].forget()  # what was measured is of no use without what was kept of it
        numbers = [number for number, _ in group]
        # The parent's own record does not count where it only stands beside the others.
        wanted = [number for number in numbers if number or len(numbers) == 1]
        left = [chunk for chunk in self._allowed if any(chunk not in self._stores[number].found for number in wanted)]
        done = len(self._allowed) - len(left)
        if done and left:
            yield Noted(
                f"{done} of {len(self._allowed)} chunks were read before and are kept: --restart reads them anew."
            )
        if not left:
            return
        yield Started(f"reading with {names}", len(left) * size * len(group), "tokens")
        order = {
            "do": "text", "text": str(self._reading.file), "chunk": size, "first": self._reading.first, "chunks": left,
            "base": self._reading.mode == "exact" and self._reading.against_base,
            "keep": str(self._kept) if keeping else None,
            "against": str(self._kept) if self._reading.mode == "bounded" and not keeping and self._reading.against_base
            else None,
        }  # fmt: skip
        total, count = 0.0, 0
        for record in session.records(order, lambda: is_first and clock.is_over() and self._enough(group)):
            self._stores[record["model"]].add(record)
            yield Advanced(size)
            key = "kl" if "kl" in record else "nll"
            values = unpack(record[key])
            total, count = total + float(values.sum()), count + len(values)
            mean = total / count
            yield Measured("KLD" if key == "kl" else "perplexity", mean if key == "kl" else float(np.exp(mean)))
        if is_first and clock.runs:
            # Later groups do exactly what the first had time for: models are compared on the same tokens.
            self._allowed = [c for c in self._allowed if all(c in self._stores[number].found for number in wanted)]

    def _check_vocabularies(self, group: Mapping[int, Variant], opened: Sequence[Mapping[str, Any]]) -> None:
        self._width = self._width or opened[0]["vocabulary"]
        for one in opened:
            if self._reading.against_base and one["vocabulary"] != self._width:
                raise BadValue(
                    f"{group[one['opened']].label} has {one['vocabulary']:,} tokens in its vocabulary, and its parent "
                    f"{self._variants[0][1].label} {self._width:,}",
                    _ONE_VOCABULARY,
                )

    def _check_tokens(self, session: Session, group: list[tuple[int, Variant]]) -> None:
        size = self._reading.chunk_tokens
        labels = {number: variant.label for number, variant in group}
        for answer in session.ask({"do": "tokens", "text": str(self._reading.file)}):
            label = labels[answer["model"]]
            whole = answer["tokens"] // size
            check_length(label, answer["tokens"], size, self._reading.least)
            if not self._token_digest:
                self._token_digest, self.tokens, self.whole = answer["digest"], answer["tokens"], whole
                self._allowed = self._chosen(whole)
            elif self._reading.against_base and answer["digest"] != self._token_digest:
                raise BadValue(
                    f"{label} reads the text as other tokens than its parent {self._variants[0][1].label}",
                    _ONE_VOCABULARY,
                )
            elif whole < self.whole:
                self.whole = whole
                self._allowed = [chunk for chunk in self._allowed if chunk < whole]

    def _chosen(self, whole: int) -> list[int]:
        """Return the chunks in the order they are read: from the beginning, or drawn where time may end it."""
        if self._config.minutes:
            drawn = np.random.default_rng(self._config.seed).permutation(whole).tolist()
            return list(drawn[: self._config.chunks or whole])
        return list(range(min(whole, self._config.chunks or whole)))

    def finished(self, variants: Sequence[tuple[int, Variant]] = ()) -> list[int]:
        """Return the chunks that every model has read, or every one of some."""
        stores = [self._stores[number].found for number, _ in variants or self._variants]
        return sorted(chunk for chunk in self._allowed if all(chunk in found for found in stores))

    def _enough(self, group: Sequence[tuple[int, Variant]]) -> bool:
        """Whether what is read so far makes a sample at all: less is not stopped at, whatever the time."""
        return len(self.finished(group)) >= LEAST_CHUNKS

    def why(self, read: int) -> str:
        """Say why only so many chunks were read; empty where all were."""
        if read == self.whole:
            return ""
        if self._config.minutes and read < min(self.whole, self._config.chunks or self.whole):
            return f"as many as {self._config.minutes:g} minutes allow, drawn with seed {self._config.seed}"
        return "as many as --chunks allows"
