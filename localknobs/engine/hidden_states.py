"""The hidden state that each layer gives at the last token of a text: read from the real computation while it runs.

A callback on llama.cpp's graph keeps the output of every block (`l_out-N`): what control vectors are added to, and
what the next block reads.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from localknobs.engine.graph_watch import GraphWatch
from localknobs.errors import BadFile, Unsupported
from localknobs.ggml_library import Tensor, tensor_values

_OUTPUT = re.compile(rb"l_out-(\d{1,6})")
_F32 = 0  # ggml_type of ggml.h


class HiddenStates(GraphWatch):
    """States of the text that is computed; `callback` goes into the context when the model is loaded.

    Args:
        layers: Layers of the model.
        width: Numbers of a state (`embedding_length`).
    """

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self._layers, self._width = layers, width
        self._found: dict[int, npt.NDArray[np.float32]] = {}

    def take(self) -> npt.NDArray[np.float32]:
        """Return the states at the last token that was computed, and forget them.

        Shapes:
            result: (layers, width), from layer 0 on.

        Raises:
            Unsupported: this architecture does not name the outputs of its layers, or they are no plain vectors.
            BadFile: a state is not finite.
        """
        found, self._found = self._found, {}
        if self.failure:
            raise self.failure
        missing = [layer for layer in range(self._layers) if layer not in found]
        if missing:
            raise Unsupported(
                f"llama.cpp does not show the output of {len(missing)} of this model's {self._layers} layers "
                f"(no tensor l_out-{missing[0]})",
                "Control vectors act on that output, so they cannot be made for this architecture.",
            )
        states = np.stack([found[layer] for layer in range(self._layers)])
        if not np.isfinite(states).all():
            raise BadFile("The model's hidden states are not finite", "The file is damaged, or overflows in its types.")
        return states

    def _wants(self, pointer: int) -> bool:
        return _OUTPUT.fullmatch(Tensor.from_address(pointer).name) is not None

    def _take(self, pointer: int) -> None:
        tensor = Tensor.from_address(pointer)
        name = _OUTPUT.fullmatch(tensor.name)
        if not name:
            return
        self._check_layout(pointer)
        width, tokens, *more = map(int, tensor.ne)
        if (width, more, tensor.type) != (self._width, [1, 1], _F32):
            raise Unsupported(
                f"The layers of this model give {' x '.join(str(int(size)) for size in tensor.ne)} numbers, "
                f"where one vector of {self._width:,} a token is needed",
                "Control vectors cannot be made for this architecture.",
            )
        if tokens:  # the last layer computes only rows that are wanted: of a prompt's beginning, none
            values = tensor_values(tensor, np.dtype(np.float32))
            self._found[int(name[1])] = np.array(values[0, 0, -1], np.float32)
