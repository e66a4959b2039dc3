"""An adapter of peft as a GGUF adapter, to be loaded beside a GGUF of its base and turned up and down while it runs.

The true scale of every module (rsLoRA, alphas and ranks by pattern) is folded into its B and the file's alpha
is 0, by which llama.cpp takes the user's scale as it is. Rows are put in the order in which the base's are.
What a GGUF adapter cannot hold is refused before anything is written: `localknobs merge` can do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.adapter import Adapter, LowRank, open_adapter
from localknobs.convert.adapter_match import EMBEDDINGS, HEADS, Addition, match_adapters
from localknobs.convert.checkpoint import Checkpoint, open_checkpoint, read_json
from localknobs.convert.families import Family, architecture_of, family_for
from localknobs.convert.float_types import ITEM_BYTES, LARGEST, Floats, from_float32
from localknobs.convert.gguf_header import StoredTensor, header_bytes, padded
from localknobs.convert.metadata import QUANTIZATION_VERSION, Sheet
from localknobs.convert.outline import Outline, row_order
from localknobs.convert.tensors import PlannedTensor
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import BadFile, BadValue, NotFound, Unsupported
from localknobs.gguf_info import read_header
from localknobs.gguf_info.base_mark import BASE_MARK, is_norm, mark_of_norms, norms_mark
from localknobs.jobs import Advanced, Job, Started, Wrote, partial_file, refuse_same_file

OUT_TYPES = {"f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32)}
"""Names of types to ggml's name and the number of the file type."""
_MERGE = "Merge it into the base with `localknobs merge`, which can do this."


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """An adapter to write as a GGUF file.

    Args:
        adapter: Its folder.
        base: Folder of its base; the config alone is enough, with the weights their names and shapes are checked too.
            None: where the adapter says it was, if that is a folder.
        output: File to write.
        out_type: Type of the factors: `f32`, `f16`, `bf16`.
        over: The GGUF file it was trained over, by which it knows its base; None where that is the folder.
    """

    adapter: Path
    base: Path | None
    output: Path
    out_type: str = "f32"
    over: Path | None = None


@dataclass(frozen=True, slots=True)
class Factor:
    """One of the two factors of a tensor, as it will be written.

    Args:
        name: In the file.
        shape: As numpy has it, the slowest size first.
        make: Makes its values.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Floats]


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """A GGUF adapter that can be written."""

    config: LoraConfig
    adapter: Adapter
    header: bytes
    factors: tuple[Factor, ...]
    dtype: str

    def size_of(self, factor: Factor) -> int:
        """Return the bytes a factor takes."""
        return int(np.prod(factor.shape)) * ITEM_BYTES[self.dtype]


def plan_lora(config: LoraConfig) -> LoraPlan:
    """Check that an adapter can be a GGUF adapter, and work out the file; writes nothing.

    Raises:
        NotFound: adapter or base is missing.
        BadFile, BadValue: something does not fit together; names the module.
        Unsupported: a GGUF adapter cannot hold it.
    """
    if config.out_type not in OUT_TYPES:
        raise BadValue(f"An adapter cannot be of the type {config.out_type}", f"One of: {', '.join(OUT_TYPES)}.")
    if config.output.suffix != ".gguf":
        raise BadValue(f"{config.output} does not end in .gguf", "Name the output with -o NAME.gguf.")
    adapter = open_adapter(config.adapter)
    base = _base_folder(config, adapter)
    additions, outline, mark = _matched(adapter, base)
    if config.over:
        mark = norms_mark(read_header(config.over))
    if not additions:
        raise Unsupported(f"{adapter.folder} has no pairs of low rank", _MERGE)
    family = _family(outline)
    factors = tuple(_factors(family, adapter, additions))
    refuse_same_file(adapter.weights.files[0].path, config.output)
    dtype, file_type = OUT_TYPES[config.out_type]
    sheet = Sheet(family.architecture)
    sheet.text("general.type", "adapter")
    sheet.text("general.name", adapter.folder.resolve().name)
    if adapter.base_name:
        sheet.u32("general.base_model.count", 1)
        sheet.text("general.base_model.0.name", Path(adapter.base_name).name)
    sheet.text(BASE_MARK, mark)
    sheet.u32("general.file_type", file_type)
    sheet.u32("general.quantization_version", QUANTIZATION_VERSION)
    sheet.text("adapter.type", "lora")
    sheet.f32("adapter.lora.alpha", 0.0)
    stored = [
        StoredTensor(
            factor.name, tuple(reversed(factor.shape)), dtype, int(np.prod(factor.shape)) * ITEM_BYTES[dtype]
        )
        for factor in factors
    ]  # fmt: skip
    return LoraPlan(config, adapter, header_bytes(sheet.keys(), stored), factors, dtype)


def convert_lora(plan: LoraPlan) -> Job[Path]:
    """Write a planned adapter; return the file.

    Raises:
        BadFile: a value is infinite, not a number or too large for the type; names file and tensor.
    """
    yield Started("converting the adapter", sum(map(plan.size_of, plan.factors)), "bytes")
    output = plan.config.output
    try:
        with partial_file(output) as beside:
            with open(beside, "wb") as file:
                file.write(plan.header)
                for factor in plan.factors:
                    values = np.ascontiguousarray(factor.make(), np.float32)
                    if (peak := float(np.abs(values).max(initial=0))) > LARGEST.get(plan.dtype, np.finfo("f4").max):
                        raise BadFile(
                            f"{plan.adapter.folder}: {factor.name} has the value {peak:g}, too large for {plan.dtype}",
                            "Take --outtype f32.",
                        )
                    data = from_float32(plan.dtype, values)
                    file.write(data.data)
                    file.write(b"\0" * (padded(data.nbytes) - data.nbytes))
                    yield Advanced(data.nbytes)
    finally:
        plan.adapter.weights.close()
    yield Wrote(output)
    return output


# ---- which tensors ---------------------------------------------------------------------------


def _base_folder(config: LoraConfig, adapter: Adapter) -> Path:
    folder = config.base or (Path(adapter.base_name) if adapter.base_name else None)
    if folder is None or not (folder / "config.json").is_file():
        raise NotFound(
            f"The base of {adapter.folder} is not known" if folder is None else f"{folder} has no config.json",
            "Give the folder of its base with --base; its config.json is enough.",
        )
    return folder


def _matched(adapter: Adapter, base: Path) -> tuple[dict[str, Addition], Outline, str]:
    """Return what is added to which of the base's tensors, those tensors, and the base's mark; refuse what cannot be.

    The mark is empty where the base's weights are not there.
    """
    if adapter.only_peft:
        raise Unsupported(f"{adapter.folder} cannot be a GGUF adapter: {adapter.only_peft}", _MERGE)
    for pair in adapter.pairs:
        if pair.magnitude:
            raise Unsupported(f"{adapter.folder} was trained with DoRA, which a GGUF adapter cannot hold", _MERGE)
        if pair.bias:
            raise Unsupported(f"{adapter.folder} trains biases, which a GGUF adapter cannot hold", _MERGE)
    config = read_json(base / "config.json")
    checkpoint = open_checkpoint(base) if any(base.glob("*.safetensors")) or any(base.glob("*.bin")) else None
    try:
        replaced = adapter.tokens or [
            name for name in adapter.replaced if not _is_copy(adapter, name, checkpoint, config)
        ]
        if replaced:
            raise Unsupported(
                f"{adapter.folder} trains {next(iter(replaced))} as a whole, which a GGUF adapter cannot hold", _MERGE
            )
        _refuse_tied(adapter, checkpoint, config)
        mark = _mark_of(checkpoint) if checkpoint else ""
        if checkpoint:
            changes = match_adapters(checkpoint, [(adapter, 1.0)]).changes
            additions = {
                name: step for name, change in changes.items() for step in change.steps if isinstance(step, Addition)
            }
            specs = {name: change.spec for name, change in changes.items()}
        else:
            additions = {f"{pair.module}.weight": Addition(adapter, pair, pair.scaling(1.0)) for pair in adapter.pairs}
            specs = {name: _spec_of(adapter, name, step.pair) for name, step in additions.items()}
    finally:
        if checkpoint:
            checkpoint.close()
    return additions, Outline(base, config, specs), mark


def _mark_of(checkpoint: Checkpoint) -> str:
    """Return the mark that GGUF files of a checkpoint have; empty where its norms cannot be told."""
    kind = family_for(checkpoint.config)
    if kind is None:
        return ""  # refused elsewhere, by name
    family = kind(checkpoint)
    family.outtype = "F32"
    names = [name for name in family.ordered_names() if len(checkpoint.info(name).shape) == 1]
    tensors = [tensor for name in names for tensor in family.tensors_of(name)]
    norms = [tensor for tensor in tensors if is_norm(tensor.name, len(tensor.shape))]
    return mark_of_norms((tensor.name, tensor.make().astype("<f4").tobytes()) for tensor in norms)


def _is_copy(adapter: Adapter, name: str, checkpoint: Checkpoint | None, config: dict[str, Any]) -> bool:
    """Return whether what stands beside adapted embeddings is only a copy of the base's."""
    stored = adapter.replaced[name]
    if ".base_layer." not in stored:
        return False
    if checkpoint is None:
        return adapter.info(stored).shape[0] == config.get("vocab_size")
    match = next((own for own in checkpoint.names() if own.endswith(name.rpartition("model.")[2])), None)
    if match is None:
        return name.endswith(HEADS)  # tied: a copy of the embeddings
    return np.array_equal(adapter.weights.read(stored), checkpoint.read(match))


def _refuse_tied(adapter: Adapter, checkpoint: Checkpoint | None, config: dict[str, Any]) -> None:
    """Refuse adapted embeddings or heads where the base has one tensor for both: llama.cpp would use it for both."""
    ends = [pair.module for pair in adapter.pairs if f"{pair.module}.weight".endswith((*EMBEDDINGS, *HEADS))]
    if not ends:
        return
    tied = config.get("tie_word_embeddings")
    if checkpoint:
        tied = tied is True or not any(name.endswith(HEADS) for name in checkpoint.names())
    if tied is not False:
        raise Unsupported(
            f"{adapter.folder} trains {ends[0]}, and the base has one tensor for embeddings and head", _MERGE
        )


def _spec_of(adapter: Adapter, name: str, pair: LowRank) -> TensorSpec:
    """Return the shape of a base's tensor, told from the adapter alone."""
    rows, columns = adapter.info(pair.b).shape[0], adapter.info(pair.a).shape[1]
    shape = (columns, rows) if pair.is_embedding else (rows, columns)
    return replace(adapter.info(pair.b), name=name, shape=shape, dtype="F32", size_bytes=4 * rows * columns)


def _family(outline: Outline) -> Family:
    kind = family_for(outline.config)
    if kind is None:
        raise Unsupported(
            f"The architecture {architecture_of(outline.config) or 'of ' + str(outline.folder)} is not known here",
            _MERGE,
        )
    return kind(outline)


# ---- their factors ---------------------------------------------------------------------------


def _factors(family: Family, adapter: Adapter, additions: dict[str, Addition]) -> Iterator[Factor]:
    """Yield the factors of all tensors in the file."""
    family.outtype = "F32"
    used: set[str] = set()
    for name in family.ordered_names():
        for tensor in family.tensors_of(name):
            used.update(tensor.source_names)
            pairs = [additions[part] for part in tensor.source_names]
            if tensor.name == "token_embd.weight":
                yield from _embedding(adapter, pairs[0], tensor.name)
            elif len(tensor.shape) == 3:
                yield from _experts(adapter, pairs, tensor)
            else:
                yield from _matrix(adapter, pairs[0], tensor)
    if left := sorted(set(additions) - used):
        raise Unsupported(f"llama.cpp cannot adapt {left[0]} without its like in {family.architecture} models", _MERGE)


def _matrix(adapter: Adapter, step: Addition, tensor: PlannedTensor) -> Iterator[Factor]:
    if step.transposed or len(tensor.parts) != 1 or len(tensor.shape) != 2:
        raise Unsupported(f"llama.cpp cannot adapt {tensor.source_names[0]}", _MERGE)
    order = row_order(tensor.parts[0], tensor.shape)
    rank, read = step.pair.rank, adapter.weights.read
    yield Factor(f"{tensor.name}.lora_a", (rank, tensor.shape[1]), lambda: read(step.pair.a))
    yield Factor(f"{tensor.name}.lora_b", (tensor.shape[0], rank), lambda: _scaled(adapter, step)[order])


def _embedding(adapter: Adapter, step: Addition, name: str) -> Iterator[Factor]:
    """Yield factors as llama.cpp looks rows of embeddings up: those of A, a row a token."""
    rank, columns = adapter.info(step.pair.a).shape
    rows = adapter.info(step.pair.b).shape[0]
    yield Factor(f"{name}.lora_a", (columns, rank), lambda: adapter.weights.read(step.pair.a).T)
    yield Factor(f"{name}.lora_b", (rows, rank), lambda: _scaled(adapter, step))


def _experts(adapter: Adapter, steps: Sequence[Addition], tensor: PlannedTensor) -> Iterator[Factor]:
    """Yield the factors of all experts of a layer together, filled up with zeros to the highest rank."""
    experts, rows, columns = tensor.shape
    rank = max(step.pair.rank for step in steps)

    def stacked(shape: tuple[int, ...], factor: Callable[[Addition], Floats]) -> Floats:
        made = np.zeros(shape, np.float32)
        for at, step in enumerate(steps):
            values = factor(step)
            made[at, : values.shape[0], : values.shape[1]] = values
        return made

    yield Factor(
        f"{tensor.name}.lora_a", (experts, rank, columns),
        lambda: stacked((experts, rank, columns), lambda step: adapter.weights.read(step.pair.a)),
    )  # fmt: skip
    yield Factor(
        f"{tensor.name}.lora_b", (experts, rows, rank),
        lambda: stacked((experts, rows, rank), lambda step: _scaled(adapter, step)),
    )  # fmt: skip


def _scaled(adapter: Adapter, step: Addition) -> Floats:
    """Return B with its module's scale in it."""
    values = adapter.weights.read(step.pair.b)
    values *= np.float32(step.scaling)
    return values
