"""Sum what goes into every matrix of a model while it reads a text: by a callback on llama.cpp's computation.

Only the worker process of `imatrix.py` imports this. What is summed, and for which tensors, is
llama-imatrix's choice (tools/imatrix/imatrix.cpp); sums are kept in 64 bits.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from localknobs.convert.ggml import TYPE_NUMBERS, Tensor, check_layout, library, operation
from localknobs.convert.imatrix_file import Entry
from localknobs.errors import BadFile

LEAST_ROWS = 16
"""llama-imatrix ignores smaller batches."""
Sums = npt.NDArray[np.float64]


class Collector:
    """Collects one chunk at a time; a chunk counts only when it is taken over whole by `keep`."""

    def __init__(self, *, process_output: bool) -> None:
        self.entries: dict[str, Entry] = {}
        self.failure: BaseException | None = None
        self._process_output = process_output
        self._chunk: dict[str, Entry] = {}
        self._shared: tuple[int, Sums] | None = None
        self._checked = False
        self._dense, self._by_expert = operation("MUL_MAT"), operation("MUL_MAT_ID")

    def on_tensor(self, pointer: int, ask: bool, _user: object) -> bool:
        """Look at one computed tensor; what goes wrong is kept in `failure`, as C cannot take an exception."""
        if self.failure:
            return not ask
        try:
            if ask:
                return self._is_wanted(pointer)
            self._take(pointer)
        except BaseException as failure:  # whatever it is: the computation must go on, and be thrown away
            self.failure = failure
        return True

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
            old = self.entries.get(name)
            self.entries[name] = Entry(old.sums + new.sums, old.counts + new.counts) if old else new
        self.drop()

    def drop(self) -> None:
        """Forget the chunk."""
        self._chunk = {}
        self._shared = None

    def _is_wanted(self, pointer: int) -> bool:
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
        if not self._checked:
            for part in (pointer, tensor.src[0], tensor.src[1]):
                check_layout(part)
            self._checked = True
        weight = Tensor.from_address(tensor.src[0])
        if tensor.op == self._by_expert:
            entry = _by_expert(weight, Tensor.from_address(tensor.src[1]), Tensor.from_address(tensor.src[2]))
        else:
            entry = self._of_dense(weight, tensor.src[1])
        name = _weight_name(weight)
        old = self._chunk.get(name)
        self._chunk[name] = Entry(old.sums + entry.sums, old.counts + entry.counts) if old else entry

    def _of_dense(self, weight: Tensor, inputs_pointer: int) -> Entry:
        inputs = Tensor.from_address(inputs_pointer)
        sizes, matrices = list(inputs.ne), weight.ne[2] * weight.ne[3]
        rows = sizes[1] * sizes[2] * sizes[3] // matrices
        if matrices == 1:
            # Query, key and value read one tensor, gate and up another: summed once while it is the same.
            if self._shared is None or self._shared[0] != inputs_pointer:
                squares = _squares(inputs).reshape(-1, sizes[0])
                self._shared = inputs_pointer, squares.sum(axis=0, dtype=np.float64)
            return Entry(self._shared[1][None, :], np.array([rows]))
        squares, sums = _squares(inputs), np.zeros((matrices, sizes[0]))
        for outer in range(sizes[3]):
            for inner in range(sizes[2]):
                matrix = outer % weight.ne[3] * weight.ne[2] + inner % weight.ne[2]
                sums[matrix] += squares[outer, inner].sum(axis=0, dtype=np.float64)
        # One count for all matrices, as llama-imatrix has it.
        return Entry(sums.reshape(1, -1), np.array([rows]))


def _by_expert(weight: Tensor, inputs: Tensor, ids: Tensor) -> Entry:
    """Sum for each expert the tokens that were sent to it.

    Shapes:
        inputs: (tokens, 1 or experts used, columns).  ids: (tokens, experts used).
    """
    experts, columns = weight.ne[2], inputs.ne[0]
    squares = _squares(inputs)[0]
    chosen = _values(ids, np.dtype(np.int32))[0, 0]
    sums, counts = np.zeros((experts, columns)), np.zeros(experts, np.int64)
    for expert in np.unique(chosen):
        tokens, places = np.nonzero(chosen == expert)
        sums[expert] = squares[tokens, places % squares.shape[1]].sum(axis=0, dtype=np.float64)
        counts[expert] = len(tokens)
    return Entry(sums, counts)


def _weight_name(tensor: Tensor) -> str:
    """Return a weight's name without a device around it: `CUDA0#blk.0.attn_k.weight#0`."""
    name: str = tensor.name.decode("utf-8", "replace")
    return name.split("#")[1] if "#" in name else name


def _squares(tensor: Tensor) -> npt.NDArray[np.float32]:
    squares: npt.NDArray[np.float32] = np.square(_values(tensor, np.dtype(np.float32)))
    return squares


def _values(tensor: Tensor, kind: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    """Return a tensor's values with the slowest dimension first; a copy where they lie on another device."""
    shape, steps = [int(size) for size in reversed(tensor.ne)], [int(step) for step in reversed(tensor.nb)]
    span = sum((size - 1) * step for size, step in zip(shape, steps, strict=True)) + kind.itemsize
    memory = ctypes.c_char * span
    ggml = library()
    if ggml.ggml_backend_buffer_is_host(tensor.buffer):
        buffer = memory.from_address(tensor.data)
    else:
        buffer = memory()
        ggml.ggml_backend_tensor_get(ctypes.addressof(tensor), ctypes.addressof(buffer), 0, span)
    return np.ndarray(shape, kind, memoryview(buffer), strides=steps)
