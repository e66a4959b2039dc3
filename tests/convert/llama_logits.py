"""Run as a process of its own: prints nothing, writes llama.cpp's logits of some tokens in float32 on one thread."""

from __future__ import annotations

import ctypes
import json
import sys

import llama_cpp as lib
import numpy as np


def main(model_path: str, tokens: list[int], out: str, adapter_path: str = "") -> None:
    """Write an array of (tokens, vocabulary); with an adapter at scale 1, if one is given."""

    @lib.llama_log_callback
    def quiet(level: int, text: bytes, user_data: object) -> None:
        if level >= 4:
            sys.stderr.write(text.decode("utf-8", "replace"))

    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False
    model = lib.llama_model_load_from_file(model_path.encode(), model_params)
    assert model, "llama.cpp cannot load the file"
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = len(tokens)  # llama.cpp makes it a multiple of 256
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = 0  # F32
    params.flash_attn_type = 0
    context = lib.llama_init_from_model(model, params)
    assert context, "llama.cpp cannot make a context"
    if adapter_path:
        adapter = lib.llama_adapter_lora_init(model, adapter_path.encode())
        assert adapter, "llama.cpp cannot load the adapter"
        adapters = (lib.llama_adapter_lora_p_ctypes * 1)(adapter)
        assert lib.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for at, token in enumerate(tokens):
        batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, at, 1, 1
        batch.seq_id[at][0] = 0
    assert lib.llama_decode(context, batch) == 0
    width = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    logits = [
        np.ctypeslib.as_array(lib.llama_get_logits_ith(context, at), (width,)).copy() for at in range(len(tokens))
    ]
    np.save(out, np.stack(logits))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:])
