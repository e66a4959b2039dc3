"""Run as a process of its own: the vectors that llama.cpp itself pools, in one micro-batch, without this program.

`python raw_vectors.py MODEL POOLING TOKENS`: POOLING is llama.cpp's number, TOKENS lists of numbers as JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys

import llama_cpp as lib
import numpy as np


@lib.llama_log_callback
def silent(level: int, text: bytes, data: object) -> None:
    pass


lib.llama_log_set(silent, ctypes.c_void_p(0))
model_params = lib.llama_model_default_params()
model_params.use_extra_bufts = False
model = lib.llama_model_load_from_file(sys.argv[1].encode(), model_params)
params = lib.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 1024
params.n_threads = params.n_threads_batch = 1
params.embeddings, params.pooling_type = True, int(sys.argv[2])
context = lib.llama_init_from_model(model, params)
found = []
for tokens in json.loads(sys.argv[3]):
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for at, token in enumerate(tokens):
        batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, at, 1, 1
        batch.seq_id[at][0] = 0
    assert lib.llama_decode(context, batch) == 0
    vector = np.ctypeslib.as_array(lib.llama_get_embeddings_seq(context, 0), (lib.llama_model_n_embd(model),))
    found.append((vector / np.linalg.norm(vector)).tolist())
print(json.dumps(found))
