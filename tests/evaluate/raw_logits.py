"""Run as a process of its own: writes llama.cpp's logits of a text's chunks as it gives them by default, on one thread.

Knows nothing of this program. Arguments: model, text file, tokens of a chunk, output. Writes `logits` of
(chunks, tokens, vocabulary) and `tokens` of (chunks, tokens), as the text has them.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import llama_cpp as lib
import numpy as np


@lib.llama_log_callback
def quiet(level: int, text: bytes, user_data: object) -> None:
    if level >= 4:
        sys.stderr.write(text.decode("utf-8", "replace"))


def main(model_path: str, text_path: str, size: int, out: str) -> None:
    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False
    model_params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(model_path.encode(), model_params)
    vocabulary = lib.llama_model_get_vocab(model)
    width = lib.llama_vocab_n_tokens(vocabulary)
    text = Path(text_path).read_bytes()
    array = (lib.llama_token * (len(text) + 8))()
    count = lib.llama_tokenize(vocabulary, text, len(text), array, len(array), True, False)
    tokens = np.array(array[: count // size * size], np.int32).reshape(-1, size)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = size
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, params)
    batch = lib.llama_batch_init(size, 0, 1)
    logits = np.empty((*tokens.shape, width), np.float32)
    for chunk, row in enumerate(tokens):
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch.n_tokens = size
        for at, token in enumerate(row):
            if at == 0 and lib.llama_vocab_get_add_bos(vocabulary):
                token = lib.llama_vocab_bos(vocabulary)
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = int(token), at, 1, at >= size // 2
            batch.seq_id[at][0] = 0
        assert lib.llama_decode(context, batch) == 0
        for at in range(size // 2, size):
            logits[chunk, at] = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, at), (width,))
    np.savez(out, logits=logits, tokens=tokens)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
