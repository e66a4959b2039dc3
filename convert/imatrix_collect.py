"""Sum what goes into every matrix of a model while it reads a text: by a callback on llama.cpp's computation.

Only the worker process of `imatrix.py` imports this. What is summed, and for which tensors, is
llama-imatrix's choice (tools/imatrix/imatrix.cpp), and so is how: in 32 bits, one row after another over the whole
text. Of 20,000 rows that loses up to 1e-4 of a sum, so that exact sums would be other numbers than its own. With as
many tokens a batch as a chunk has (its `-b`) the files are the same; by default it computes four chunks at once, and
of three that are left over it ignores a batch of under 16 tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from localknobs.convert.ggml import TYPE_NUMBERS
from localknobs.convert.imatrix_file import Entry
from localknobs.engine.graph_watch import GraphWatch
from localknobs.errors import BadFile
from localknobs.ggml_library import Tensor, operation, tensor_values

LEAST_ROWS = 16
"""llama-imatrix ignores smaller batches."""
Sums = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


class Collector(GraphWatch):
    """Collects one chunk at a time; a chunk counts only when it is taken over whole by `keep`."""

    def __init__(self, *, process_output: bool) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}
        self._process_output = process_output
        self._chunk: dict[str, Entry] = {}
        self._shared: tuple[int, Sums | None, Sums] | None = None
        self._dense, self._by_expert = operation("MUL_MAT"), operation("MUL_MAT_ID")

    def keep(self) -> None:
        """Take the chunk over into the sums.

        Raises:
            BadFile: the activations are not finite.
        """
        for name, new in self._chunk.items():
            if not np.isfinite(new.sums).all():
                raise BadFile(
                    f"The input of {name} is not finite", "The model is damaged, or overflows in its 16-bit types."
                )
        self.entries.update(self._chunk)
        self.drop()

    def drop(self) -> None:
        """Forget the chunk."""
        self._chunk = {}
        self._shared = None

    def _wants(self, pointer: int) -> bool:
        tensor = Tensor.from_address(pointer)
        if tensor.op == self._by_expert:
            return True
        if tensor.op != self._dense:
            return False
        inputs = Tensor.from_address(tensor.src[1])
        if inputs.ne[1] < LEAST_ROWS or inputs.type != TYPE_NUMBERS["F32"]:
            return False
        name = _weight_name(Tensor.from_address(tensor.src[0]))
        return name.startswith("blk.") or (self._process_output and name == "output.weight")

    def _take(self, pointer: int) -> None:
        tensor = Tensor.from_address(pointer)
        self._check_layout(pointer, tensor.src[0], tensor.src[1])
        weight = Tensor.from_address(tensor.src[0])
        name = _weight_name(weight)
        old = self._chunk.get(name) or self.entries.get(name)
        if tensor.op == self._by_expert:
            inputs, ids = Tensor.from_address(tensor.src[1]), Tensor.from_address(tensor.src[2])
            chosen = tensor_values(ids, np.dtype(np.int32))[0, 0]
            self._chunk[name] = added_by_expert(old, _squares(inputs)[0], chosen, weight.ne[2])
        else:
            self._chunk[name] = self._of_dense(old, weight, tensor.src[1])

    def _of_dense(self, old: Entry | None, weight: Tensor, inputs_pointer: int) -> Entry:
        inputs = Tensor.from_address(inputs_pointer)
        sizes, matrices = list(inputs.ne), weight.ne[2] * weight.ne[3]
        rows = sizes[1] * sizes[2] * sizes[3] // matrices
        # One count for all matrices, as llama-imatrix has it.
        counts = np.array([rows], np.int64) if old is None else old.counts + rows
        if matrices == 1:
            before = old.sums if old else None
            # Query, key and value read one tensor, gate and up another: summed once while it is the same.
            shared = self._shared
            if shared is None or shared[0] != inputs_pointer or not _are_same(shared[1], before):
                squares = _squares(inputs).reshape(-1, sizes[0])
                sums = before[0] if before is not None else np.zeros(sizes[0])
                shared = self._shared = inputs_pointer, before, added(sums, squares)[None, :]
            return Entry(shared[2], counts)
        squares = _squares(inputs)
        sums = old.sums.reshape(matrices, -1).copy() if old else np.zeros((matrices, sizes[0]))
        for outer in range(sizes[3]):
            for inner in range(sizes[2]):
                matrix = outer % weight.ne[3] * weight.ne[2] + inner % weight.ne[2]
                sums[matrix] = added(sums[matrix], squares[outer, inner])
        return Entry(sums.reshape(1, -1), counts)


def added(sums: Sums, squares: Floats) -> Sums:
    """Add rows to sums, one after another in 32 bits.

    Shapes:
        sums: (columns,).  squares: (rows, columns).
    """
    rows = np.concatenate([sums.astype(np.float32)[None, :], squares])
    # Not `sum`: of a single column that would add in pairs. `accumulate` always goes row by row, and is slower.
    last = np.add.reduce(rows, axis=0) if rows.shape[1] > 1 else np.add.accumulate(rows, axis=0)[-1]
    exact: Sums = last.astype(np.float64)
    return exact


def added_by_expert(old: Entry | None, squares: Floats, chosen: npt.NDArray[Any], experts: int) -> Entry:
    """Add to each expert's sums the tokens that were sent to it: all first choices, then all second ones.

    Args:
        old: What was summed before, if anything.
        squares: Of the inputs.
        chosen: Numbers of experts.
        experts: How many there are.

    Shapes:
        squares: (tokens, 1 or experts used, columns).  chosen: (tokens, experts used).
    """
    sums = old.sums.copy() if old else np.zeros((experts, squares.shape[2]))
    counts = old.counts.copy() if old else np.zeros(experts, np.int64)
    for expert in np.unique(chosen):
        places, tokens = np.nonzero(chosen.T == expert)
        sums[expert] = added(sums[expert], squares[tokens, places % squares.shape[1]])
        counts[expert] += len(tokens)
    return Entry(sums, counts)


def _are_same(one: Sums | None, other: Sums | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _weight_name(tensor: Tensor) -> str:
    """Return a weight's name without a device around it: `CUDA0#blk.0.attn_k.weight#0`."""
    name: str = tensor.name.decode("utf-8", "replace")
    return name.split("#")[1] if "#" in name else name


def _squares(tensor: Tensor) -> Floats:
    squares: Floats = np.square(tensor_values(tensor, np.dtype(np.float32)))
    return squares
