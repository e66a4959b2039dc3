"""Experts that a checkpoint has one by one, and a GGUF file has in one tensor for each layer and matrix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

from localknobs.convert.families.base import Family
from localknobs.convert.tensors import Part, PlannedTensor
from localknobs.errors import BadFile

_EXPERT = re.compile(r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")


class WithExperts(Family):
    """A family whose layers have experts."""

    expert_names: ClassVar[dict[str, str]] = {
        "down_proj": "ffn_down_exps", "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps",
    }  # fmt: skip
    """Matrices of one expert to the names of all experts' together, in the order of the file."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.config.setdefault("num_key_value_heads", self.heads)
        self.experts: int = self.need("num_local_experts" if "num_local_experts" in self.config else "num_experts")
        self._found: dict[int, dict[tuple[int, str], str]] = {}

    def plan(self, outtype: str) -> list[PlannedTensor]:
        """Return all tensors in the order of the file.

        Raises:
            BadFile: an expert is missing.
        """
        self._found = {}
        planned = super().plan(outtype)
        for layer, found in self._found.items():
            missing = next(
                f"experts.{number}.{matrix}"
                for number in range(self.experts)
                for matrix in self.expert_names
                if (number, matrix) not in found
            )
            raise BadFile(
                f"{self.source.folder} has no tensor {missing} for layer {layer}, which {self.experts} experts need",
                "The checkpoint is not complete.",
            )
        return planned

    def tensors_of(self, name: str) -> Iterator[PlannedTensor]:
        """Yield the experts of a layer when the last of them is seen, everything else at once."""
        named = _EXPERT.fullmatch(self.plain_name(name))
        if not named or named[3] not in self.expert_names:
            yield from super().tensors_of(name)
            return
        layer = int(named[1])
        found = self._found.setdefault(layer, {})
        found[int(named[2]), named[3]] = name
        if len(found) < self.experts * len(self.expert_names):
            return
        for matrix, new_name in self.expert_names.items():
            sources = [found.pop((number, matrix), "") for number in range(self.experts)]
            if not all(sources):
                raise BadFile(
                    f"{self.source.folder} has more experts in layer {layer} than the {self.experts} of config.json",
                    "The configuration belongs to another checkpoint.",
                )
            shape = (self.experts, *self.source.info(sources[0]).shape)
            yield self.tensor(f"blk.{layer}.{new_name}.weight", [Part(source) for source in sources], shape)
        del self._found[layer]
