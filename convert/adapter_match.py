"""Which tensors of a base an adapter changes, and how: names, shapes, tied embeddings; refusals before work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from localknobs.convert.adapter import Adapter, LowRank
from localknobs.convert.checkpoint import Checkpoint
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import BadValue, Unsupported

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
_RENAMES = (
    ("", ""), ("model.", ""), ("", "model."), ("transformer.", ""), ("", "transformer."),
    ("model.language_model.", "model."), ("model.language_model.", "language_model.model."),
    ("model.", "model.language_model."), ("model.", "language_model.model."),
)  # fmt: skip
"""Beginnings of names as models have them in memory, and as their checkpoints may have them."""
_CONV1D_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Models whose layers store their weights transposed; peft corrects `fan_in_fan_out` for them by itself."""
_ADAPTABLE = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class Addition:
    """A product of an adapter that is added to a weight, or the bias of its B to a bias."""

    adapter: Adapter
    pair: LowRank
    scaling: float
    transposed: bool = False
    to_bias: bool = False


@dataclass(frozen=True, slots=True)
class Replacement:
    """A tensor of an adapter that stands for the base's, or for some rows of it."""

    adapter: Adapter
    name: str
    scale: float
    rows: tuple[int, ...] | None = None


@dataclass(slots=True)
class Change:
    """What becomes of one tensor.

    Args:
        base: The base's tensor it begins from; the embeddings where a tied head gets weights of its own.
        spec: Name, type and shape of the result.
        replacement: What stands for the base's values.
        steps: What then happens to them, in the order of the adapters.
    """

    base: str
    spec: TensorSpec
    replacement: Replacement | None = None
    steps: list[Addition | Replacement] = field(default_factory=list)


@dataclass(slots=True)
class Match:
    """All changes of a base, by the name of the result.

    Args:
        changes: By name.
        untied: The head has weights of its own, where the base uses its embeddings.
        vocabulary_rows: Rows of the embeddings, where an adapter changes their number.
        notes: What the user should know.
    """

    changes: dict[str, Change] = field(default_factory=dict)
    untied: bool = False
    vocabulary_rows: int | None = None
    notes: list[str] = field(default_factory=list)


def match_adapters(base: Checkpoint, adapters: Sequence[tuple[Adapter, float]]) -> Match:
    """Lay adapters onto a base, in order.

    Raises:
        Unsupported: the base is quantized.
        BadValue: a module is missing in the base, a shape does not fit, or two adapters replace the same tensor.
    """
    if base.config.get("quantization_config"):
        raise Unsupported(
            f"{base.folder} is quantized, and an adapter cannot be merged into its codes exactly",
            "Merge into the model it was quantized from.",
        )
    matcher = _Matcher(base)
    for adapter, scale in adapters:
        matcher.add(adapter, scale)
    return matcher.finished()


class _Matcher:
    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self._names = frozenset(base.names())
        self._embedding = next((name for name in base.names() if name.endswith(EMBEDDINGS)), "")
        self._head = next((name for name in base.names() if name.endswith(HEADS)), "")
        self._is_tied = bool(self._embedding) and (not self._head or base.config.get("tie_word_embeddings") is True)
        self._keeps_tie = True
        self._match = Match()

    def add(self, adapter: Adapter, scale: float) -> None:
        wanted = [f"{pair.module}.weight" for pair in adapter.pairs] + [
            *adapter.replaced,
            *(f"{module}.weight" for module in adapter.tokens),
            *(f"{pair.module}.bias" for pair in adapter.pairs if pair.bias),
        ]
        target = self._targets(adapter, wanted)
        tied_by_adapter = bool(adapter.config.get("ensure_weight_tying"))
        for path, name in adapter.replaced.items():
            self._replace(adapter, scale, path, target[path], name)
        for module, (name, rows) in adapter.tokens.items():
            change = self._change(target[f"{module}.weight"])
            self._check_rows(adapter, name, rows, change)
            change.steps.append(Replacement(adapter, name, scale, rows))
        for pair in adapter.pairs:
            change = self._change(target[f"{pair.module}.weight"])
            change.steps.append(Addition(adapter, pair, pair.scaling(scale), self._orientation(adapter, pair, change)))
            if self._is_end(change.spec.name) and not tied_by_adapter:
                self._keeps_tie = False
            if pair.bias:
                self._add_bias(adapter, scale, pair, target[f"{pair.module}.bias"])

    def _targets(self, adapter: Adapter, wanted: Sequence[str]) -> dict[str, str]:
        """Return the base's name of each tensor that an adapter names; all begin in the same way."""
        best: tuple[dict[str, str], list[str]] | None = None
        for begin, instead in _RENAMES:
            found, missing = {}, []
            for path in wanted:
                name = instead + path.removeprefix(begin) if path.startswith(begin) else path
                if name not in self._names and path.endswith(HEADS):
                    name = self._head or path
                if name in self._names or (self._is_tied and name.endswith(HEADS)):
                    found[path] = name
                else:
                    missing.append(path)
            if not missing:
                return found
            if best is None or len(missing) < len(best[1]):
                best = found, missing
        missing = best[1] if best else []
        raise BadValue(
            f"The adapter {adapter.folder} does not fit {self._base.folder}: the base has no {_some(missing)}",
            _made_for(adapter),
        )

    def _change(self, name: str) -> Change:
        if name not in self._match.changes:
            base = name if name in self._names else self._embedding
            self._match.changes[name] = Change(base, replace(self._base.info(base), name=name))
            if self._base.info(base).dtype not in _ADAPTABLE:
                raise Unsupported(
                    f"{self._base.info(base).file}: the tensor {base} is of type {self._base.info(base).dtype}",
                    "An adapter can be merged into float32, float16 and bfloat16.",
                )
        return self._match.changes[name]

    def _is_end(self, name: str) -> bool:
        """Return whether a tensor is one of the two that may be tied."""
        return self._is_tied and (name == self._embedding or name.endswith(HEADS))

    def _replace(self, adapter: Adapter, scale: float, path: str, target: str, name: str) -> None:
        own_module = adapter.replaces_module(path.rpartition(".")[0])
        if not own_module:
            if target in self._names and self._equals_base(adapter, name, target):
                return  # a copy of the base's, which peft puts beside adapted embeddings
            if self._is_tied and target.endswith(HEADS) and target not in self._names:
                target = self._embedding  # one weight with two names, written over as one
        elif self._is_end(target) and not adapter.config.get("ensure_weight_tying"):
            self._keeps_tie = False
        change = self._change(target)
        if change.replacement and change.replacement.adapter is adapter:
            return
        if change.replacement or change.steps:
            others = change.replacement or change.steps[0]
            raise BadValue(
                f"{others.adapter.folder} and {adapter.folder} both train {target}, one of them as a whole",
                "Merge one of the two.",
            )
        spec, had = adapter.info(name), change.spec
        if spec.shape != had.shape:
            is_resized = target.endswith((*EMBEDDINGS, *HEADS)) and spec.shape[1:] == had.shape[1:] and scale == 1
            if not is_resized:
                raise _misfit(adapter, target, had.shape, spec.shape)
            size = spec.elements * had.size_bytes // max(1, had.elements)
            change.spec = replace(had, shape=spec.shape, size_bytes=size)
            self._match.vocabulary_rows = spec.shape[0]
        change.replacement = Replacement(adapter, name, scale)

    def _equals_base(self, adapter: Adapter, name: str, target: str) -> bool:
        if adapter.info(name).shape != self._base.info(target).shape:
            return False
        return bool(np.array_equal(adapter.weights.read(name), self._base.read(target)))

    def _orientation(self, adapter: Adapter, pair: LowRank, change: Change) -> bool:
        """Return whether the product is to be transposed; refuse shapes that do not fit."""
        rows, columns = adapter.info(pair.b).shape[0], adapter.info(pair.a).shape[1]
        may_transpose = (
            bool(adapter.config.get("fan_in_fan_out")) or self._base.config.get("model_type") in _CONV1D_TYPES
        )
        is_transposed = pair.is_embedding or (may_transpose and change.spec.shape == (columns, rows))
        expected = (columns, rows) if is_transposed else (rows, columns)
        if change.spec.shape != expected:
            raise _misfit(adapter, change.spec.name, change.spec.shape, expected)
        if pair.magnitude and adapter.info(pair.magnitude).elements != rows:
            raise _misfit(adapter, change.spec.name, (rows,), adapter.info(pair.magnitude).shape)
        return is_transposed

    def _add_bias(self, adapter: Adapter, scale: float, pair: LowRank, target: str) -> None:
        change = self._change(target)
        if adapter.info(str(pair.bias)).shape != change.spec.shape:
            raise _misfit(adapter, target, change.spec.shape, adapter.info(str(pair.bias)).shape)
        change.steps.append(Addition(adapter, pair, pair.scaling(scale), to_bias=True))

    def _check_rows(self, adapter: Adapter, name: str, rows: tuple[int, ...], change: Change) -> None:
        shape = change.spec.shape
        if max(rows, default=0) >= shape[0] or adapter.info(name).shape[1:] != shape[1:]:
            raise _misfit(adapter, change.spec.name, shape, adapter.info(name).shape)

    def finished(self) -> Match:
        """Settle what is tied to what."""
        match = self._match
        head = self._head or next((name for name in match.changes if name.endswith(HEADS)), "lm_head.weight")
        if self._is_tied and not self._keeps_tie and not self._replaced_alike(head):
            match.untied = True
            embeddings = match.changes.get(self._embedding)
            change = self._change(head)
            if not change.steps and not change.replacement and embeddings and embeddings.replacement:
                whole = embeddings.replacement
                if not whole.adapter.replaces_module(self._embedding.removesuffix(".weight")):
                    change.replacement, change.spec = whole, replace(embeddings.spec, name=head)
            match.notes.append(
                "The adapter trains the embeddings or the head, but not both alike: the head gets weights of its own, "
                f"where the base uses its embeddings ({head}, {change.spec.shape[0]} rows)"
            )
        self._check_vocabulary(head)
        return match

    def _replaced_alike(self, head: str) -> bool:
        """Return whether embeddings and head were replaced by the same values; then the head's are left out."""
        embeddings, top = self._match.changes.get(self._embedding), self._match.changes.get(head)
        if not embeddings or not top or embeddings.steps or top.steps:
            return False
        one, two = embeddings.replacement, top.replacement
        if (
            not one
            or not two
            or one.scale != two.scale
            or one.adapter.info(one.name).shape != two.adapter.info(two.name).shape
        ):
            return False
        if not np.array_equal(one.adapter.weights.read(one.name), two.adapter.weights.read(two.name)):
            return False
        if head not in self._names:
            del self._match.changes[head]
        return True

    def _check_vocabulary(self, head: str) -> None:
        """Refuse embeddings and a head that know different numbers of tokens."""
        changes = self._match.changes
        rows = {
            name: (changes[name].spec if name in changes else self._base.info(name)).shape[0]
            for name in (self._embedding, head)
            if name in changes or name in self._names
        }
        if len(set(rows.values())) > 1:
            said = " and ".join(f"{name} {count:,}" for name, count in rows.items())
            raise BadValue(f"The merged model would know two numbers of tokens: {said}", "The adapter is not complete.")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name.removesuffix(".weight") for name in names[:3])
    return shown + (f" and {len(names) - 3} more of its modules" if len(names) > 3 else "")


def _made_for(adapter: Adapter) -> str:
    return f"It was trained on {adapter.base_name}." if adapter.base_name else "It was trained on another model."


def _misfit(adapter: Adapter, target: str, had: tuple[int, ...], found: tuple[int, ...]) -> BadValue:
    return BadValue(
        f"The adapter {adapter.folder} does not fit: {target} has the shape {had} in the base, {found} in the adapter",
        _made_for(adapter),
    )
