"""A tiny random base with the built-in model's tokenizer and a few examples, for trainings of a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from repository import REPOSITORY

from localknobs.tune.config import TuneConfig

KNOBS = {"lora_r": 4, "learning_rate": 0.02, "train_batch": 4, "seq_length": 64, "epochs": 4.0, "lora_dropout": 0.1}


def make_base(folder: Path) -> Path:
    """Write the checkpoint; return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=3072, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=0, pad_token_id=1,
        eos_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(REPOSITORY / "models" / "checkpoint" / name, folder)
    return folder


def write_examples(file: Path, count: int = 24) -> Path:
    """Write questions with answers."""
    lines = [{"prompt": f"say {number % 5}", "completion": f"it is {number % 5} {number}"} for number in range(count)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def tiny_config(base: Path, folder: Path, **changes: Any) -> TuneConfig:
    """Return a training of a second or two."""
    knobs = {**KNOBS, **changes.pop("knobs", {})}
    data = changes.pop("data", None) or write_examples(folder / "data.jsonl")
    settings = {"output": folder / "adapter", "threads": 1, "answers": 2, "prove": False, **changes}
    return TuneConfig(base=base, data=data, knobs=knobs, **settings)
