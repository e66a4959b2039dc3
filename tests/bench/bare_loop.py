"""The loop an engine is measured against, in a process of its own: decode one token after another, nothing else.

`python bare_loop.py MODEL THREADS CONTEXT`; each line on standard input, `PROMPT COUNT`, is answered with the
seconds that COUNT single-token decodes took after a prompt of PROMPT tokens.
"""

from __future__ import annotations

import ctypes
import sys
from time import perf_counter

import llama_cpp as lib


@lib.llama_log_callback
def silent(level, text, data):
    pass


lib.llama_log_set(silent, ctypes.c_void_p(0))
path, threads, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
lib.llama_backend_init()
model_params = lib.llama_model_default_params()
model_params.use_extra_bufts = sys.argv[4] == "extra"
model = lib.llama_model_load_from_file(path.encode(), model_params)
params = lib.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = size, min(2048, size), threads, threads
params.no_perf = True
context = lib.llama_init_from_model(model, params)
memory = lib.llama_get_memory(context)
one = (lib.llama_token * 1)()
batch = lib.llama_batch_get_one(one, 1)
decode = lib.llama_decode
for line in sys.stdin:
    prompt, count = map(int, line.split())
    lib.llama_memory_clear(memory, True)
    tokens = (lib.llama_token * prompt)(*(5 + at % 250 for at in range(prompt)))
    assert decode(context, lib.llama_batch_get_one(tokens, prompt)) == 0
    began = perf_counter()
    for step in range(count):
        one[0] = 5 + step % 250
        decode(context, batch)
    print(perf_counter() - began, flush=True)
