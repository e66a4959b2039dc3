"""Many tokens in one call, with the logits of those that are wanted; only worker processes import this.

Filled through numpy: one assignment a token would cost a small model a tenth of its speed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from localknobs.engine.llama import LoadedModel, lib

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]


class TokenBatch:
    """Room for as many tokens as the model takes in one call; made once, used for every call.

    Args:
        model: Whose tokens; it must outlive this.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._room = room = model.batch_size
        self._batch = batch = lib.llama_batch_init(room, 0, 1)
        self._tokens = np.ctypeslib.as_array(batch.token, (room,))
        self._places = np.ctypeslib.as_array(batch.pos, (room,))
        self._wanted = np.ctypeslib.as_array(batch.logits, (room,))
        np.ctypeslib.as_array(batch.n_seq_id, (room,))[:] = 1
        for place in range(room):
            batch.seq_id[place][0] = 0
        self._outputs = 0

    def decode(self, tokens: Tokens, begin: int, first_wanted: int) -> int:
        """Compute tokens that stand from place `begin` on; logits are kept from the one at `first_wanted` on.

        Args:
            tokens: At most as many as the model's batch.
            begin: Place of the first in the context.
            first_wanted: Index into `tokens`; their count keeps none.

        Returns:
            llama.cpp's code: 0 done, 1 no room in the cache, 2 aborted, below 0 failed.
        """
        count = len(tokens)
        self._batch.n_tokens = count
        self._tokens[:count] = tokens
        self._places[:count] = np.arange(begin, begin + count, dtype=np.int32)
        self._wanted[:count] = np.arange(count) >= first_wanted
        self._outputs = count - first_wanted
        return int(lib.llama_decode(self._model.context, self._batch))

    def logits(self) -> Logits:
        """Return the kept logits of the last call; a view that the next call overwrites.

        Shapes:
            result: (tokens wanted, vocabulary).
        """
        shape = (self._outputs, self._model.vocabulary_size)
        return np.ctypeslib.as_array(lib.llama_get_logits(self._model.context), shape)

    def close(self) -> None:
        """Free the room; once."""
        lib.llama_batch_free(self._batch)
