"""Adapters merged into a base: as a source of weights for whoever converts, and as a whole checkpoint on disk.

One tensor at a time, in float32: memory is bounded by the largest tensor and its factors. The result is
peft's own merge; what peft's merge would do to tied embeddings differently from the adapter as trained is
done as trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from localknobs import version
from localknobs.convert.adapter import Adapter, LoraChoice, open_adapter
from localknobs.convert.adapter_match import Addition, Change, Match, Replacement, match_adapters
from localknobs.convert.checkpoint import Checkpoint, check_finite, open_checkpoint
from localknobs.convert.checkpoint_writer import SHARD_BYTES, CheckpointPlan, plan_checkpoint, write_checkpoint
from localknobs.convert.float_types import Floats, from_float32
from localknobs.convert.lora_math import add_dora, add_low_rank, product
from localknobs.convert.peft_merge import check_peft, merge_with_peft
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import BadFile, BadValue
from localknobs.jobs import Job, Noted, Started, Wrote, partial_folder

OutType = Literal["same", "f32", "f16", "bf16"]
OUT_TYPES: tuple[OutType, ...] = ("same", "f32", "f16", "bf16")


class MergedSource:
    """A base with adapters merged into it, read like a checkpoint; nothing is written.

    Args:
        base: The base; must stay open.
        adapters: Adapters with the factor of each, in the order in which they are applied.

    Raises:
        BadValue: an adapter does not fit the base; names the modules.
        Unsupported: the base is quantized, or an adapter is of a kind that only peft can merge.
    """

    def __init__(self, base: Checkpoint, adapters: Sequence[tuple[Adapter, float]]) -> None:
        self.base = base
        self.adapters = tuple(adapters)
        self.match: Match = match_adapters(base, self.adapters)
        self.folder = base.folder
        self.config = self._config()

    def _config(self) -> dict[str, Any]:
        config = dict(self.base.config)
        if self.match.untied:
            config["tie_word_embeddings"] = False
        if self.match.vocabulary_rows is not None:
            config["vocab_size"] = self.match.vocabulary_rows
        return config

    def is_changed(self, name: str) -> bool:
        """Return whether a tensor's values are not those the base has on disk."""
        return name in self.match.changes

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        names = self.base.names()
        return names + [name for name in self.match.changes if name not in set(names)]

    def info(self, name: str) -> TensorSpec:
        """Return a tensor's shape, and the type in which the base has it."""
        change = self.match.changes.get(name)
        return change.spec if change else self.base.info(name)

    def raw(self, name: str) -> memoryview:
        """Return a tensor's bytes in the base's type; of one that an adapter changes, rounded to it."""
        if name not in self.match.changes:
            return self.base.raw(name)
        return from_float32(self.info(name).dtype, self.read(name)).data

    def fill(self, name: str, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Read bytes of a tensor into a buffer, from an offset on; of a changed one, rounded to the base's type."""
        if self.is_changed(name):
            out[:] = np.frombuffer(self.raw(name), np.uint8)[offset : offset + out.size]
        else:
            self.base.fill(name, offset, out)

    def read_part(self, name: str, first: int, out: Floats) -> None:
        """Fill a flat buffer with values of a tensor from the given one on; merges all of it when it is changed."""
        if self.is_changed(name):
            out[:] = self.read(name).reshape(-1)[first : first + out.size]
        else:
            self.base.read_part(name, first, out)

    def read(self, name: str) -> Floats:
        """Return a tensor as float32, merged.

        Raises:
            BadFile: a value of base, adapter or result is infinite or not a number; names file and tensor.
        """
        change = self.match.changes.get(name)
        if change is None:
            return self.base.read(name)
        weight = self._begin(change)
        has_lengths = any(isinstance(step, Addition) and step.pair.magnitude for step in change.steps)
        unmerged = weight.copy() if has_lengths and len(change.steps) > 1 else weight
        for step in change.steps:
            if isinstance(step, Addition):
                _add(weight, unmerged, step)
            else:
                _put_rows(weight, step)
        try:
            check_finite(weight, change.spec)
        except BadFile:
            adapters = ", ".join(sorted({str(step.adapter.folder) for step in change.steps}))
            raise BadFile(
                f"Merged with {adapters}, the tensor {name} has values that are infinite or not numbers",
                "The adapter is broken, or its scale is far too large.",
            ) from None
        return weight

    def _begin(self, change: Change) -> Floats:
        """Return the values that adapters are added to."""
        whole = change.replacement
        if whole is None:
            return self.base.read(change.base)
        values = whole.adapter.weights.read(whole.name)
        return values if whole.scale == 1 else _between(self.base.read(change.base), values, whole.scale)

    def file(self, name: str) -> Path | None:
        """Return a file that stands beside the weights, such as `tokenizer.json`; the base's."""
        return self.base.file(name)

    def close(self) -> None:
        """Close base and adapters."""
        self.base.close()
        for adapter, _ in self.adapters:
            adapter.weights.close()


def _add(weight: Floats, unmerged: Floats, step: Addition) -> None:
    read, pair = step.adapter.weights.read, step.pair
    if step.to_bias:
        weight += read(str(pair.bias)) * np.float32(step.scaling)
        return
    delta = product(read(pair.a), read(pair.b), step.scaling, transposed=step.transposed)
    if pair.magnitude:
        magnitude = read(pair.magnitude).reshape(-1)
        add_dora(weight, delta, unmerged, magnitude, transposed=step.transposed)
    else:
        add_low_rank(weight, delta)


def _put_rows(weight: Floats, step: Replacement) -> None:
    rows = list(step.rows or ())
    values = step.adapter.weights.read(step.name)
    weight[rows] = values if step.scale == 1 else _between(weight[rows], values, step.scale)


def _between(base: Floats, trained: Floats, scale: float) -> Floats:
    """Return what lies so far from the base towards what was trained."""
    trained -= base
    trained *= np.float32(scale)
    trained += base
    return trained


# ---- as a source -----------------------------------------------------------------------------


@contextlib.contextmanager
def open_source(base: Path, loras: Sequence[LoraChoice] = ()) -> Iterator[Checkpoint | MergedSource]:
    """Open a checkpoint, with adapters merged into it if there are any.

    Raises:
        Unsupported: an adapter is of a kind that only peft can merge; `merge` writes those.
    """
    checkpoint = open_checkpoint(base)
    source: Checkpoint | MergedSource = checkpoint
    try:
        if loras:
            adapters = [(open_adapter(lora.path), lora.scale) for lora in loras]
            for adapter, _ in adapters:
                if adapter.only_peft:
                    raise BadValue(
                        f"{adapter.folder} cannot be merged on the way: {adapter.only_peft}",
                        f"First `localknobs merge {base} --lora {adapter.folder} -o FOLDER`, then begin from FOLDER.",
                    )
            source = MergedSource(checkpoint, adapters)
        yield source
    finally:
        source.close()


# ---- to disk ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MergeConfig:
    """What to merge.

    Args:
        base: Folder of the base checkpoint.
        loras: Adapters, in the order in which they are applied.
        output: Folder to write; must not exist, or be empty.
        out_type: Type of the weights; `same` keeps each tensor's own.
        shard_bytes: A file of weights gets no larger, unless one tensor is.
    """

    base: Path
    loras: tuple[LoraChoice, ...]
    output: Path
    out_type: OutType = "same"
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True, slots=True)
class MergePlan:
    """A merge that was checked.

    Args:
        source: What is read; where peft itself must merge, the base.
        adapters: Adapters with the factor of each.
        written: What will be written; where peft merges, as much as is known of it.
        only_peft: Why peft itself must merge; empty when it need not.
        notes: What the user should know before.
    """

    config: MergeConfig
    source: Checkpoint | MergedSource
    adapters: tuple[tuple[Adapter, float], ...]
    written: CheckpointPlan
    only_peft: str
    notes: tuple[str, ...]


def plan_merge(config: MergeConfig) -> MergePlan:
    """Check all that can be checked without reading the weights; writes nothing.

    Raises:
        BadValue: the output exists, or an adapter does not fit the base.
        NotFound, BadFile, Unsupported: a file is missing, damaged, or of a kind that cannot be merged.
        NotEnough: the disk is too small.
    """
    if not config.loras:
        raise BadValue("There is nothing to merge", "Name an adapter with --lora.")
    base = open_checkpoint(config.base)
    adapters = tuple((open_adapter(lora.path), lora.scale) for lora in config.loras)
    only_peft = next((f"{adapter.folder}: {adapter.only_peft}" for adapter, _ in adapters if adapter.only_peft), "")
    if only_peft:
        check_peft()
        if any(scale != 1 for _, scale in adapters):
            raise BadValue(f"A scale other than 1 cannot be used with {only_peft}", "Merge it at scale 1.")
    source: Checkpoint | MergedSource = base if only_peft else MergedSource(base, adapters)
    overlay = [adapter.folder for adapter, _ in adapters]
    written = plan_checkpoint(source, config.output, config.out_type, config.shard_bytes, overlay)
    notes = (f"peft itself merges {only_peft}",) if isinstance(source, Checkpoint) else tuple(source.match.notes)
    return MergePlan(config, source, adapters, written, only_peft, notes)


def merge(plan: MergePlan) -> Job[Path]:
    """Write the merged checkpoint, a whole folder or none.

    Returns:
        The folder.

    Raises:
        BadFile: a weight is infinite or not a number, or too large for the type; names file and tensor.
        NotEnough: the disk is full; nothing is left behind.
    """
    for text in plan.notes:
        yield Noted(text)
    output = plan.config.output
    try:
        with partial_folder(output) as beside:
            if plan.only_peft:
                yield from _through_peft(plan, beside)
            else:
                yield from write_checkpoint(plan.written, beside)
            write_record(plan, beside)
    finally:
        plan.source.close()
    yield Wrote(output)
    return output


def _through_peft(plan: MergePlan, folder: Path) -> Job[None]:
    """Let peft merge into a folder within, and write from there in the wanted types."""
    base, config = plan.source, plan.config
    within = folder / "peft"
    yield Started("merging with peft", 0, "adapters")
    yield from merge_with_peft(base.folder, [adapter.folder for adapter, _ in plan.adapters], within)
    merged = open_checkpoint(within)
    try:
        tie = merged.config.get("tie_word_embeddings", base.config.get("tie_word_embeddings"))
        merged.config = {**base.config, "vocab_size": merged.config.get("vocab_size"), "tie_word_embeddings": tie}
        known = set(base.names())
        common = base.info(max(known, key=lambda name: base.info(name).elements)).dtype
        written = plan_checkpoint(
            merged, within / "none", config.out_type, config.shard_bytes, plan.written.overlay,
            lambda name: base.info(name).dtype if name in known else common,
        )  # fmt: skip
        merged.folder = base.folder  # from there come the files beside the weights
        yield from write_checkpoint(written, folder)
    finally:
        merged.close()
    shutil.rmtree(within)


def write_record(plan: MergePlan, folder: Path) -> None:
    """Write how the folder was made, so that it can be made again; names, not paths, since folders are shared."""
    record = {
        "made_by": f"localknobs merge {version()}",
        "base": plan.source.folder.resolve().name,
        "adapters": [
            {"name": adapter.folder.resolve().name, "scale": scale, "sha256": _sha256(adapter)}
            for adapter, scale in plan.adapters
        ],
        "outtype": plan.config.out_type,
    }
    (folder / "merge.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(adapter: Adapter) -> str:
    with open(adapter.weights.files[0].path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
