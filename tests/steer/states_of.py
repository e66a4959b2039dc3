"""Run as a process of its own: writes the states of prompts after every layer, control vectors on if given."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from localknobs.engine.adapters import put_on
from localknobs.engine.hidden_states import HiddenStates
from localknobs.engine.llama import LoadedModel, lib, send_log_to_stderr
from localknobs.engine.settings import LoadSettings
from localknobs.gguf_info import read_header

order = json.loads(sys.stdin.read())
send_log_to_stderr()
settings = LoadSettings(
    model=Path(order["model"]), n_ctx=256, control_vector=tuple(order["vectors"]), control_vector_layers=order["layers"]
)
header = read_header(settings.model)
look = HiddenStates(header.number("block_count") + order["missing"], header.number("embedding_length"))
model = LoadedModel(settings, 256, 1, False, lambda done: None, look.callback)
put_on(model, header, settings)
begin = int(lib.llama_vocab_bos(model.vocabulary))  # which the built-in model's template writes
found, tokens = [], []
for prompt in order["prompts"]:
    tokens.append([begin, *model.tokenize(prompt, special=True)])
    model.clear()
    assert model.decode(tokens[-1]) == 0
    found.append(look.take())
np.save(order["out"], np.stack(found))
print(json.dumps(tokens))
