"""Which weights of a checkpoint can get an adapter, and which of them a user means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from localknobs.convert.adapter_match import EMBEDDINGS, HEADS
from localknobs.convert.checkpoint import WeightSource
from localknobs.errors import BadValue, Unsupported

_ATTENTION = ("attn", "attention")
_NOT_LINEAR = ("norm", "rotary", "conv", "gate.weight", "router")


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules that get an adapter.

    Args:
        names: Last parts of their names, as peft takes them: `q_proj`.
        shapes: (rows, columns) of every weight that is meant.
        layers: How many layers the model has.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    layers: int


def find_modules(checkpoint: WeightSource, wanted: str) -> Modules:
    """Return what `all-linear`, `attention`, `mlp` or names of modules, separated by commas, mean in a model.

    Args:
        checkpoint: Its tensors, of which names and shapes are read.
        wanted: What is meant.

    Raises:
        BadValue: the checkpoint has no such module; the message lists those it has.
        Unsupported: it has none at all that could get one.
    """
    linear = _linear(checkpoint)
    if not linear:
        raise Unsupported(f"{checkpoint.folder} has no linear layers that an adapter could go beside")
    known = sorted({_last(name) for name in linear})
    attention = {_last(name) for name in linear if any(part in name for part in _ATTENTION)}
    groups = {"all-linear": set(known), "attention": attention, "mlp": set(known) - attention}
    asked = [word.strip() for word in wanted.split(",") if word.strip()]
    chosen: set[str] = set()
    for word in asked:
        if word not in groups and word not in known:
            raise _unknown(word, known)
        chosen |= groups.get(word, {word})
    if not chosen:
        raise BadValue(f"No modules are named by {wanted!r}", _listed(known))
    shapes = tuple(_shape(checkpoint, name) for name in linear if _last(name) in chosen)
    return Modules(tuple(sorted(chosen)), shapes, len({name.split(".layers.")[-1].split(".")[0] for name in linear}))


def _linear(checkpoint: WeightSource) -> list[str]:
    ends = (*EMBEDDINGS, *HEADS)
    return [
        name
        for name in checkpoint.names()
        if name.endswith(".weight")
        and len(checkpoint.info(name).shape) == 2
        and not name.endswith(ends)
        and not any(part in name for part in _NOT_LINEAR)
    ]


def _shape(checkpoint: WeightSource, name: str) -> tuple[int, int]:
    rows, columns = checkpoint.info(name).shape
    return rows, columns


def _last(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def _listed(known: Sequence[str]) -> str:
    return f"There are {', '.join(known)}; or all-linear, attention, mlp."


def _unknown(word: str, known: Sequence[str]) -> BadValue:
    near = get_close_matches(word, [*known, "all-linear", "attention", "mlp"], n=1, cutoff=0.6)
    mean = f"Did you mean {near[0]}? " if near else ""
    return BadValue(f"The model has no module {word!r}", mean + _listed(known))
