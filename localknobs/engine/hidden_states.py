"""The hidden state that each layer gives at the last token of a text: read from the real computation while it runs.

A callback on llama.cpp's graph keeps the output of every block (`l_out-N`): what control vectors are added to, and
what the next block reads.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from localknobs.engine.llama import lib
from localknobs.errors import BadFile, Unsupported
from localknobs.ggml_library import Tensor, check_layout, tensor_values

_OUTPUT = re.compile(rb"l_out-(\d{1,6})")
_F32 = 0  # ggml_type of ggml.h


class HiddenStates:
    """States of the text that is computed; `callback` goes into the context when the model is loaded.

    Args:
        layers: Layers of the model.
        width: Numbers of a state (`embedding_length`).
    """

    def __init__(self, layers: int, width: int) -> None:
        self._layers, self._width = layers, width
        self._found: dict[int, npt.NDArray[np.float32]] = {}
        self._checked = False
        self._failure: BaseException | None = None
        self.callback = lib.ggml_backend_sched_eval_callback(self._on_tensor)

    def take(self) -> npt.NDArray[np.float32]:
        """Return the states at the last token that was computed, and forget them.

        Shapes:
            result: (layers, width), from layer 0 on.

        Raises:
            Unsupported: this architecture does not name the outputs of its layers, or they are no plain vectors.
            BadFile: a state is not finite.
        """
        found, self._found = self._found, {}
        if self._failure:
            raise self._failure
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

    def _on_tensor(self, pointer: int, ask: bool, _user: object) -> bool:
        """Look at one tensor; what goes wrong is kept, as C cannot take an exception and would compute no further."""
        if self._failure:
            return not ask
        try:
            tensor = Tensor.from_address(pointer)
            name = _OUTPUT.fullmatch(tensor.name)
            if ask:
                return name is not None
            if name:
                self._keep(int(name[1]), pointer)
        except BaseException as failure:
            self._failure = failure
        return True

    def _keep(self, layer: int, pointer: int) -> None:
        if not self._checked:
            check_layout(pointer)
            self._checked = True
        tensor = Tensor.from_address(pointer)
        width, tokens, *more = map(int, tensor.ne)
        if (width, more, tensor.type) != (self._width, [1, 1], _F32):
            raise Unsupported(
                f"The layers of this model give {' x '.join(str(int(size)) for size in tensor.ne)} numbers, "
                f"where one vector of {self._width:,} a token is needed",
                "Control vectors cannot be made for this architecture.",
            )
        if tokens:  # the last layer computes only rows that are wanted: of a prompt's beginning, none
            values = tensor_values(tensor, np.dtype(np.float32))
            self._found[layer] = np.array(values[0, 0, -1], np.float32)
