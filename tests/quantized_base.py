"""A small random checkpoint of a width that every type can hold, and GGUF files made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from repository import REPOSITORY

from localknobs.convert.quant_plan import TypeChoice
from localknobs.convert.quantize import QuantizeConfig, plan_quantize, quantize
from localknobs.jobs import drain


def make_wide_base(folder: Path, **changes: object) -> Path:
    """Write a Llama of width 256 with the built-in model's tokenizer; return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(5)
    settings = {
        "vocab_size": 3072, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": True,
        "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 3, **changes,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(REPOSITORY / "models" / "checkpoint" / name, folder)
    return folder


def quantized(base: Path, type_name: str, folder: Path) -> Path:
    """Return a GGUF file of a checkpoint, every matrix in the same type."""
    file = folder / f"{type_name}.gguf"
    choice = TypeChoice(pure=True, output_type=type_name, embedding_type=type_name)
    whole = f"{type_name}_S" if type_name in ("Q3_K", "Q4_K", "Q5_K") else type_name
    drain(quantize(plan_quantize(QuantizeConfig(source=base, outputs=((whole, file),), choice=choice))))
    return file


def write_config(folder: Path, **numbers: object) -> Path:
    """Write the config of a Llama alone; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **numbers}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
