"""Run as a worker: the next command after the load makes llama.cpp end this process, in the way that is named.

`python crashing_worker.py WAY FILE`; the file is a model that may be destroyed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from localknobs.engine import worker


def crash(model: Any) -> None:
    """Do what ends llama.cpp; returns only when it has not."""
    from localknobs.engine.llama import lib

    way, context = sys.argv[1], model.context
    tokens = (lib.llama_token * 4)(*[5] * 4)
    if way == "sequence":
        lib.llama_memory_seq_rm(model.memory, 9999, 0, -1)
    elif way == "batch":
        many = (lib.llama_token * (model.batch_size + 1))(*[5] * (model.batch_size + 1))
        lib.llama_decode(context, lib.llama_batch_get_one(many, len(many)))
    elif way in ("logits", "selector"):
        lib.llama_decode(context, lib.llama_batch_get_one(tokens, 4))
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(
            chain, lib.llama_sampler_init_top_k(5) if way == "selector" else lib.llama_sampler_init_greedy()
        )
        lib.llama_sampler_sample(chain, context, -1 if way == "selector" else 0)
    elif way == "adapters":
        lib.llama_set_adapters_lora(context, None, 1, None)
    elif way == "freed":
        lib.llama_model_free(model.pointer)
        lib.llama_decode(context, lib.llama_batch_get_one(tokens, 4))
    elif way == "cache type":
        params = lib.llama_context_default_params()
        params.n_ctx, params.type_k, params.flash_attn_type = 256, 12, 0  # Q4_K, without flash attention
        other = lib.llama_init_from_model(model.pointer, params)
        lib.llama_decode(other, lib.llama_batch_get_one(tokens, 4))
    elif way == "no_alloc":
        params = lib.llama_model_default_params()
        params.no_alloc, params.load_mode = True, lib.LLAMA_LOAD_MODE_MMAP
        lib.llama_model_load_from_file(os.fsencode(sys.argv[2]), params)
    elif way == "in place":
        params = lib.llama_model_quantize_default_params()
        params.ftype = lib.LLAMA_FTYPE_MOSTLY_Q8_0
        lib.llama_model_quantize(os.fsencode(sys.argv[2]), os.fsencode(sys.argv[2]), ctypes.byref(params))
    elif way == "null":
        lib.llama_n_ctx(ctypes.c_void_p(0))


load = worker.Worker._do


def do(self: Any, command: dict[str, Any]) -> None:
    if command["do"] != "load":
        crash(self._generator.model)
    load(self, command)


worker.Worker._do = do
worker.main()
