"""How much attention every held token has received: read from the real computation while it runs.

A callback on llama.cpp's graph adds up the columns of each watched layer's softmax (`kq_soft_max`), which exist only
with flash attention off. A column is a cell of the cache, not a position; which cell a token went to is read from the
same computation. What the score is not: llama.cpp keeps one set of cells for all layers and heads, so the ranking is
over their sum, where the paper ranks in each head.

Source: H2O, arXiv:2306.14048.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from localknobs.engine.cache import TokenCache
from localknobs.engine.graph_watch import GraphWatch
from localknobs.errors import LocalknobsError
from localknobs.ggml_library import Tensor, tensor_values

MOST_LAYERS = 8
"""Layers that are watched, evenly spread: each costs a look at all its scores for every token."""
_SOFTMAX, _KEYS = b"kq_soft_max", b"cache_k_l"


class AttentionScores(GraphWatch):
    """Scores of the tokens of one cache; `callback` goes into the context, `on_change` into the cache.

    Args:
        layers: Layers of the model.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        step = max(1, -(-layers // MOST_LAYERS))
        self._watched = {b"%s-%d" % (_SOFTMAX, layer) for layer in range(0, layers, step)}
        self._by_cell = np.zeros(0)
        self._cells: list[int] = []  # of the held tokens, in their order
        self._idx_of = b""  # the layer whose writing tells the cells

    def attach(self, cache: TokenCache) -> None:
        """Make the context of a cache anew, empty, with this looking on."""
        cache.model.watch(self.callback)
        cache.on_change = self._forget
        # What was computed on trial and taken back, or stopped, was seen too.
        cache.model.before_decode = lambda: self._settle(cache.in_model)
        self._cells.clear()

    def scores(self, count: int) -> npt.NDArray[np.float64]:
        """Return the attention that each of the first `count` held tokens has received.

        Raises:
            LocalknobsError: the callback failed, or saw something else than what is held.
        """
        if self.failure or len(self._cells) < count:
            why = self.failure or f"{len(self._cells)} tokens were seen, and {count} are held"
            raise LocalknobsError(f"Attention cannot be read: {why}", "Choose another way: --context-full.")
        cells = np.array(self._cells[:count])
        found: npt.NDArray[np.float64] = self._by_cell[cells]
        return found

    def _forget(self, begin: int, end: int) -> None:
        del self._cells[begin:end]

    def _settle(self, count: int) -> None:
        del self._cells[count:]

    def _wants(self, pointer: int) -> bool:
        name = Tensor.from_address(pointer).name
        if name.startswith(_KEYS):
            self._note_cells(pointer, name)
        return name in self._watched

    def _note_cells(self, pointer: int, name: bytes) -> None:
        """Read which cells the tokens of this micro-batch go to, once: in the first layer that writes its keys."""
        for source in Tensor.from_address(pointer).src:
            if not source:
                continue
            indexes = Tensor.from_address(source)
            if indexes.type == 27 and indexes.name.startswith(b"attn_inp_k_idxs"):  # I64
                layer = name.split(b" ")[0]
                self._idx_of = self._idx_of or layer
                if layer == self._idx_of:
                    self._check_layout(pointer, source)
                    cells = tensor_values(indexes, np.dtype(np.int64)).reshape(-1).tolist()
                    self._cells += cells
                    self._grow(max(cells) + 1)
                    self._by_cell[cells] = 0.0
                return

    def _take(self, pointer: int) -> None:
        tensor = Tensor.from_address(pointer)
        if tensor.name not in self._watched:
            return
        values = tensor_values(tensor, np.dtype(np.float32))
        columns = values.sum(axis=(0, 1, 2), dtype=np.float64)  # over streams, heads and tokens
        self._grow(len(columns))
        self._by_cell[: len(columns)] += columns

    def _grow(self, count: int) -> None:
        if count > len(self._by_cell):
            self._by_cell = np.pad(self._by_cell, (0, max(count, 2 * len(self._by_cell)) - len(self._by_cell)))
