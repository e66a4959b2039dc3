"""What llama.cpp makes of a file that is verified: `python -m localknobs.convert.verify_worker`.

Standard input brings orders, JSON objects: to load, then to read texts, then to compute logits, which go to files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.child import Say, serve
from localknobs.engine.settings import LoadSettings
from localknobs.errors import LocalknobsError, NotEnough
from localknobs.gguf_info import read_header


def _run(order: dict[str, Any], say: Say) -> None:
    from localknobs.engine.adapters import put_on
    from localknobs.engine.llama import LoadedModel, lib, send_log_to_stderr

    send_log_to_stderr()
    size = order["context"]
    settings = LoadSettings(
        model=Path(order["model"]), n_ctx=size, n_gpu_layers=0, n_batch=size, n_ubatch=size, lora=tuple(order["lora"])
    )
    model = LoadedModel(settings, size, order["threads"], False, lambda done: None)
    _make_exact(lib, model, size, order["threads"])
    put_on(model, read_header(settings.model), settings)
    vocabulary = model.vocabulary
    say({
        "template": model.chat_template() or "",
        "width": model.vocabulary_size,
        "begin_token": model.begin_token,
        "begin": int(lib.llama_vocab_bos(vocabulary)),
        "begin_text": model.token_text(int(lib.llama_vocab_bos(vocabulary))),
        "end_text": model.token_text(int(lib.llama_vocab_eos(vocabulary))),
        "ends": [token for token in range(model.vocabulary_size) if lib.llama_vocab_is_eog(vocabulary, token)],
    })  # fmt: skip
    command = json.loads(sys.stdin.buffer.readline() or b'{"texts": []}')
    found = [model.tokenize(text, special=special) for text, special in command["texts"]]
    used = sorted({token for tokens in found for token in tokens})
    say({"tokens": found, "spellings": {str(token): model.token_text(token) for token in used}})
    command = json.loads(sys.stdin.buffer.readline() or b'{"inputs": []}')
    for at, tokens in enumerate(command["inputs"]):
        model.clear()
        if code := model.decode_all(tokens):
            raise LocalknobsError(f"llama.cpp could not compute a prompt (code {code})", "The log tells more.")
        rows = [
            np.ctypeslib.as_array(lib.llama_get_logits_ith(model.context, place), (model.vocabulary_size,))
            for place in range(len(tokens))
        ]
        np.save(Path(command["folder"]) / f"file-{at}.npy", np.stack(rows))
        say({"done": at})


def _make_exact(lib: Any, model: Any, size: int, threads: int) -> None:
    """Give the model a context that rounds nothing: keys and values in 32 bits, attention step by step."""
    lib.llama_free(model.context)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = size
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = 0  # F32
    params.flash_attn_type = 0
    model.context = lib.llama_init_from_model(model.pointer, params)
    if not model.context:
        raise NotEnough(f"llama.cpp could not make a context of {size} tokens", "Close other programs.")
    model.memory = lib.llama_get_memory(model.context)


if __name__ == "__main__":
    serve(_run)
