"""A model's tensors by name and shape, without values: enough for a family to tell their names in a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.families import Family, families
from localknobs.convert.float_types import Floats
from localknobs.convert.tensors import Array, Part
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import Unsupported
from localknobs.gguf_info import Header, TensorInfo


class Outline:
    """Tensors by name and shape, as a family wants to see a source of weights.

    Args:
        folder: Where the config lies.
        config: What it says.
        specs: The tensors by their names in a checkpoint.
    """

    def __init__(self, folder: Path, config: dict[str, Any], specs: dict[str, TensorSpec]) -> None:
        self.folder, self.config, self._specs = folder, config, specs

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._specs)

    def info(self, name: str) -> TensorSpec:
        """Return a tensor's name and shape."""
        return self._specs[name]

    def is_changed(self, name: str) -> bool:
        """Return that nothing is known of its values."""
        return True

    def raw(self, name: str) -> memoryview:
        """Refuse: an outline has no values."""
        raise NotImplementedError

    def read(self, name: str) -> Floats:
        """Refuse: an outline has no values."""
        raise NotImplementedError

    def read_part(self, name: str, first: int, out: Floats) -> None:
        """Refuse: an outline has no values."""
        raise NotImplementedError

    def fill(self, name: str, offset: int, out: Array) -> None:
        """Refuse: an outline has no values."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint's tensor lies in a GGUF file.

    Args:
        name: There.
        order: Which row of the checkpoint's tensor each row of the file is; None where all are in place.
        shift: What the file has more on every value.
    """

    name: str
    order: Array | None
    shift: float


def place_of(family: Family, name: str) -> Place:
    """Return where a checkpoint's tensor lies in a GGUF file, which must hold it whole and by itself.

    Raises:
        Unsupported: the file has it together with others, or not by rows.
        BadFile: the family has no such tensor.
    """
    family.outtype = "F32"
    planned = list(family.tensors_of(name))
    if len(planned) != 1 or len(planned[0].parts) != 1 or planned[0].shape != family.source.info(name).shape:
        raise Unsupported(
            f"{name} lies in a GGUF file together with others, which cannot be trained over yet",
            "Train over the checkpoint: --method lora.",
        )
    order = row_order(planned[0].parts[0], planned[0].shape)
    return Place(planned[0].name, None if isinstance(order, slice) else order, planned[0].shift)


def row_order(part: Part, shape: tuple[int, ...]) -> Array | slice:
    """Return in which order the rows of a tensor are written.

    Raises:
        Unsupported: more than the order of rows is changed, which a product cannot follow.
    """
    if part.view is None:
        return slice(None)
    rows = shape[0]
    if len(shape) == 1:
        return part.view(np.arange(rows)).reshape(rows).copy()
    row_of = part.view(np.broadcast_to(np.arange(rows)[:, None], shape)).reshape(shape)
    column_of = part.view(np.broadcast_to(np.arange(shape[1]), shape)).reshape(shape)
    if not (row_of == row_of[:, :1]).all() or not (column_of == np.arange(shape[1])).all():
        raise Unsupported(f"llama.cpp cannot adapt {part.name}", "Merge it into the base with `localknobs merge`.")
    return row_of[:, 0].copy()


def outline_of(headers: Sequence[Header]) -> Outline:
    """Return the matrices of a GGUF file under the names a checkpoint of its architecture has.

    Args:
        headers: Of the file, or of all files of a split model.

    Raises:
        Unsupported: the architecture is not known here.
    """
    family = _family_class(headers[0].architecture)
    modules: dict[str, str] = {}
    for module, name in family.names.items():
        modules.setdefault(name, module)
    specs = {}
    for header in headers:
        for tensor in header.tensors:
            stem, _, kind = tensor.name.rpartition(".")
            layer, inner = "", stem
            if stem.startswith("blk."):
                number, _, inner = stem.removeprefix("blk.").partition(".")
                layer = f"model.layers.{number}."
            if inner in modules and kind == "weight":
                specs[f"{layer}{modules[inner]}.weight"] = _spec(tensor, f"{layer}{modules[inner]}.weight", header.path)
    return Outline(headers[0].path, {}, specs)


def _family_class(architecture: str) -> type[Family]:
    found = [family for family in families().values() if family.architecture == architecture]
    if not found:
        known = sorted({family.architecture for family in families().values()})
        raise Unsupported(
            f"The architecture {architecture or 'of this file'} cannot be trained over its GGUF file",
            f"Known are {', '.join(known)}.",
        )
    return found[0]


def _spec(tensor: TensorInfo, name: str, file: Path) -> TensorSpec:
    return TensorSpec(
        name, tensor.type_name, tuple(reversed(tensor.shape)), file, tensor.offset, tensor.size_bytes
    )  # fmt: skip
