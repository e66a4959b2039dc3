"""Run as a process of its own: the logits of every token of a text, in float32 on one thread, with loading settings.

`python settings_logits.py MODEL SETTINGS TOKENS OUT`; settings and tokens are JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp as lib
import numpy as np

from localknobs.engine.llama import LoadedModel
from localknobs.engine.settings import LoadSettings


@lib.llama_log_callback
def silent(level, text, data):
    pass


lib.llama_log_set(silent, ctypes.c_void_p(0))
tokens = json.loads(sys.argv[3])
known = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off", "n_ctx": len(tokens)}
settings = LoadSettings(model=Path(sys.argv[1]), **{**known, **json.loads(sys.argv[2])})
model = LoadedModel(settings, settings.n_ctx, 1, False, lambda done: None)
assert model.decode_all(tokens) == 0
width = model.vocabulary_size
rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(model.context, at), (width,)) for at in range(len(tokens))]
np.save(sys.argv[4], np.stack(rows))
