"""Tiny random checkpoints and adapters, saved by transformers and peft, and peft's own merge of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
warnings.filterwarnings("ignore", module="peft")

VOCABULARY = 300
Weights = dict[str, torch.Tensor]


def save_llama(folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any) -> Path:
    """Save a random Llama of two layers, whose sizes are all different; return its folder."""
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "tie_word_embeddings": False, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258, **settings,
        }
    )  # fmt: skip
    return _save(config, folder, dtype, seed)


def save_gpt2(folder: Path, seed: int = 0) -> Path:
    """Save a random GPT-2, whose layers store their weights transposed; return its folder."""
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=128)
    return _save(config, folder, torch.float32, seed)


def _save(config: Any, folder: Path, dtype: torch.dtype, seed: int) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.to(dtype).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Save a byte-level tokenizer of all bytes and a few markers, as a fast tokenizer of Llama's kind."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: at for at, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)


def load(folder: Path, dtype: torch.dtype | None = None) -> Any:
    """Return a saved model, in the type it was saved in."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto").eval()


def save_adapter(base: Path, folder: Path, *, seed: int = 1, config: Any = None, **settings: Any) -> Path:
    """Save an adapter as if it was trained on a base: all its values are random; return its folder."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(load(base), config or peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
            elif "modules_to_save" in name or "token_adapter" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    return folder


def adapted(base: Path, adapters: Sequence[tuple[Path, float]], dtype: torch.dtype | None = None) -> Any:
    """Return peft's model with adapters at their scales, none merged."""
    model: Any = load(base, dtype)
    names = []
    for at, (folder, scale) in enumerate(adapters):
        names.append(f"adapter{at}")
        if at == 0:
            model = peft.PeftModel.from_pretrained(model, folder, adapter_name=names[0])
        else:
            model.load_adapter(folder, adapter_name=names[-1])
        for module in model.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.set_scale(names[-1], scale)
    if len(names) > 1:
        model.base_model.set_adapter(names)
    return model.eval()


def merged_by_peft(base: Path, adapters: Sequence[tuple[Path, float]], dtype: torch.dtype | None = None) -> Weights:
    """Return the weights of peft's own merge."""
    with torch.no_grad():
        return dict(adapted(base, adapters, dtype).merge_and_unload().state_dict())


def logits(model: Any, count: int = 24) -> np.ndarray:
    """Return a model's logits on fixed tokens."""
    tokens = torch.arange(3, 3 + count)[None]
    with torch.no_grad():
        return model(tokens).logits[0].float().numpy()
