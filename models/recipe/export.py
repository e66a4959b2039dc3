"""Write the trained checkpoint as the GGUF that ships: `python models/recipe/export.py CHECKPOINT OUT.gguf`.

Float16 weights, norms in float32. Every name and permutation is llama.cpp's for the `llama` architecture (conversion/llama.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
RECOMMENDED = {"temp": 0.3, "top_p": 0.9}
"""A model of this size wanders at llama.cpp's default of 0.8."""


def for_rotation(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key matrix from halves (Hugging Face) to pairs (ggml's RoPE for llama)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main(checkpoint: Path, out: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    template = (checkpoint / "chat_template.jinja").read_text(encoding="utf-8")
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type("model")
    writer.add_name("localknobs built-in")
    writer.add_description("A very small chat model about the knobs of language models and about localknobs.")
    writer.add_license("mit")
    writer.add_languages(["en"])
    writer.add_size_label(f"{sum(weight.size for weight in load_file(checkpoint / 'model.safetensors').values()) / 1e6:.1f}M")
    writer.add_float32("general.sampling.temp", RECOMMENDED["temp"])
    writer.add_float32("general.sampling.top_p", RECOMMENDED["top_p"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)

    special = {token["content"] for token in tokenizer["added_tokens"]}
    texts = [text for text, _ in sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(texts)
    writer.add_token_types([gguf.TokenType.CONTROL if text in special else gguf.TokenType.NORMAL for text in texts])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(True)
    writer.add_chat_template(template)

    weights = load_file(checkpoint / "model.safetensors")
    for name, weight in weights.items():
        parts = name.removeprefix("model.").removesuffix(".weight")
        if parts.startswith("layers."):
            _, layer, rest = parts.split(".", 2)
            if rest == "self_attn.q_proj":
                weight = for_rotation(weight, config["num_attention_heads"])
            elif rest == "self_attn.k_proj":
                weight = for_rotation(weight, config["num_key_value_heads"])
            target = f"blk.{layer}.{NAMES[rest]}.weight"
        else:
            target = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[parts] + ".weight"
        writer.add_tensor(target, weight.astype(np.float32 if weight.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
