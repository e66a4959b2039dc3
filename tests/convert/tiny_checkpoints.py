"""Tiny random checkpoints of every family that is converted here, made by transformers, with tokenizers to match."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

VOCABULARY_SIZE = 384
LENGTH = 24
"""Tokens of the text whose logits are compared."""

_SHAPE = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}
_LONG_LENGTHS = {"original_max_position_embeddings": 256, "max_position_embeddings": 1024}
_LONG = {
    "rope_type": "longrope", "original_max_position_embeddings": 256,
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.8, 2.0], "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"head_dim": 32, "attention_bias": True}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", {}),
    "qwen2_moe": (
        "qwen2_moe",
        {**_EXPERTS, "shared_expert_intermediate_size": 48, "decoder_sparse_step": 1, "norm_topk_prob": False},
    ),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3_moe": ("qwen3_moe", {**_EXPERTS, "head_dim": 32}),
    "gemma2": ("gemma2", {**_GEMMA, "tie_word_embeddings": True}),
    "gemma3": (
        "gemma3_text",
        {**_GEMMA, "num_hidden_layers": 7, "tie_word_embeddings": True},
    ),
    "phi3": ("phi3", {"rope_scaling": None}),
    "phi3-longrope": ("phi3", {"rope_scaling": _LONG, **_LONG_LENGTHS}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 8, "num_hidden_layers": 4}),
    "granite": (
        "granite",
        {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "stablelm": ("stablelm", {"use_parallel_residual": False, "partial_rotary_factor": 0.5}),
    "stablelm-norms": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "cohere": ("cohere", {"tie_word_embeddings": True}),
    "gpt_oss": (
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 8, "intermediate_size": 64,
         # ggml always rounds the borders of YaRN's ramp to whole dimensions, as `truncate` does here.
         "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                             "rope_theta": 150000.0, "truncate": True, "original_max_position_embeddings": 64}},
    ),
}  # fmt: skip
"""Name of a case to transformers's kind of model and what differs from the shape of all."""

ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": _LONG,
}  # fmt: skip
"""Scalings of rotary positions that a Llama may have."""


def make_checkpoint(folder: Path, case: str, dtype: str = "float32", **changes: Any) -> Path:
    """Write a tiny random checkpoint of a family with its tokenizer; return its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, own = FAMILIES[case]
    config = AutoConfig.for_model(kind, **{**_SHAPE, **own, **changes})
    torch.set_num_threads(1)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.08 if "embed_tokens" in name else 0.12)
            else:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.eval().to(getattr(torch, dtype)).save_pretrained(folder)
    write_tokenizer(folder, "pieces" if kind.startswith(("gemma", "phi3")) else "bytes", prefix=kind == "phi3")
    return folder


def expected_logits(folder: Path, tokens: list[int]) -> Any:
    """Return what transformers computes for the checkpoint, in float32 on one thread."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


# ---- tokenizers ------------------------------------------------------------------------------

CORPUS = (
    "the quick brown fox jumps over the lazy dog and then they all went home",
    "She said: I'm here, you're there, we've won 1234 times (in 2024)!",
    "Übergröße naïve café, и ещё немного текста, 中文 日本語 한국어",
    "def function(argument): return {'a': 1, 'b': [2, 3]}  # comment",
    "333 333 333 333 333 333 333 333",  # merged as cut, by threes: rules that cut numbers otherwise show
)
LLAMA3_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def write_tokenizer(folder: Path, kind: str, size: int = VOCABULARY_SIZE, *, prefix: bool = False) -> None:
    """Write a tokenizer.

    Args:
        folder: Where to.
        kind: `bytes` (byte-level BPE cut as Llama 3), `pieces` (SentencePiece and the same as BPE), `fallback` (BPE
            with byte fallback alone).
        size: Tokens that the embedding has; the tokenizer has a few less.
        prefix: Whether a space is put before a text, in the last two.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors, trainers
    from tokenizers import pre_tokenizers as cutters

    special = ["<pad>", "<s>", "</s>", "<unk>", "<|endoftext|>"]
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = cutters.Sequence(
            [
                cutters.Split(Regex(LLAMA3_CUTS), "isolated"),
                cutters.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            show_progress=False,
            vocab_size=size - 8,
            special_tokens=special,
            initial_alphabet=cutters.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(CORPUS * 3, trainer)
        tokenizer.add_special_tokens([AddedToken("<|im_start|>", normalized=False)])
        tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        space = normalizers.Replace(" ", "▁")
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        trainer = trainers.BpeTrainer(show_progress=False, vocab_size=size - 8, special_tokens=[*special, *bytes_])
        tokenizer.train_from_iterator(["".join("▁" + word for word in line.split()) for line in CORPUS] * 3, trainer)
        settings["tokenizer_class"] = "LlamaTokenizer"
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    if kind == "pieces":
        write_pieces(folder / "tokenizer.model", json.loads(tokenizer.to_str()))


def write_pieces(file: Path, tokenizer: dict[str, Any]) -> None:
    """Write a `tokenizer.model` with the tokens and merges of a byte-fallback tokenizer."""
    ranks = {"".join(merge): rank for rank, merge in reversed([*enumerate(tokenizer["model"]["merges"])])}
    data = bytearray()
    for text, number in sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1]):
        kind = 2 if text == "<unk>" else 3 if number < 5 else 6 if number < 261 else 1
        score = -float(ranks.get(text, 0 if kind != 1 else 9999))
        data += field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind]))
    trainer = b"\x18\x02" + b"\x98\x02\x01"  # model_type: BPE; byte_fallback
    file.write_bytes(bytes(data) + field(2, trainer))


def field(number: int, data: bytes) -> bytes:
    """Return a field of a protocol buffer that holds bytes."""
    length, head = len(data), bytearray([number << 3 | 2])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes(head) + bytes([length]) + data
