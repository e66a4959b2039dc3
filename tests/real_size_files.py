"""GGUF files with headers of real size: 150,000 tokens with scores and types, 280,000 merges, a 7B model's tensors.

The weights are holes, which take no disk.
"""

from __future__ import annotations

import functools
import random
import struct
from pathlib import Path

from gguf_files import ARRAY, TEXT, U32, gguf_key, gguf_text

TOKENS, MERGES, LAYERS = 150_000, 280_000, 32
_Q4_K, _F32 = 12, 0
_LAYER = {
    "attn_norm": (4096,), "attn_q": (4096, 4096), "attn_k": (4096, 1024), "attn_v": (4096, 1024),
    "attn_output": (4096, 4096), "ffn_norm": (4096,), "ffn_gate": (4096, 14336), "ffn_up": (4096, 14336),
    "ffn_down": (14336, 4096),
}  # fmt: skip
FILE_TYPE = 15  # Q4_K_M


@functools.cache
def vocabulary_keys(tokens: int = TOKENS, merges: int = MERGES) -> bytes:
    """Return the tokenizer's long keys as a file has them: tokens, scores, token types, merges."""
    chance = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyzĠéüß中文字ж"
    words = ["".join(chance.choices(letters, k=1 + chance.randrange(2 + 12 * n // tokens))) for n in range(tokens)]
    pairs = [f"{chance.choice(words)} {chance.choice(words)}" for _ in range(merges)]
    return (
        _texts("tokenizer.ggml.tokens", words)
        + _numbers("tokenizer.ggml.scores", 6, struct.pack(f"<{tokens}f", *map(float, range(tokens))), tokens)
        + _numbers("tokenizer.ggml.token_type", 5, struct.pack(f"<{tokens}i", *[1] * tokens), tokens)
        + _texts("tokenizer.ggml.merges", pairs)
    )


def _texts(name: str, texts: list[str]) -> bytes:
    return gguf_text(name) + struct.pack("<IIQ", ARRAY, TEXT, len(texts)) + b"".join(map(gguf_text, texts))


def _numbers(name: str, kind: int, packed: bytes, count: int) -> bytes:
    return gguf_text(name) + struct.pack("<IIQ", ARRAY, kind, count) + packed


def real_size_header(name: str = "Real", *, tokens: int = TOKENS, merges: int = MERGES) -> tuple[bytes, int]:
    """Return a header as llama-quantize writes it, its file type and split keys last; and the bytes of the weights."""
    before = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("general.name", TEXT, name),
        gguf_key("llama.block_count", U32, LAYERS),
        gguf_key("llama.context_length", U32, 131_072),
        gguf_key("llama.embedding_length", U32, 4096),
        gguf_key("llama.attention.head_count", U32, 32),
        gguf_key("tokenizer.ggml.model", TEXT, "gpt2"),
    ]
    after = [
        gguf_key("tokenizer.ggml.bos_token_id", U32, 1),
        gguf_key(
            "tokenizer.chat_template", TEXT, "{% for message in messages %}{{ message.content }}{% endfor %}" * 90
        ),
        gguf_key("general.quantization_version", U32, 2),
        gguf_key("general.file_type", U32, FILE_TYPE),
    ]
    tensors = {"token_embd.weight": (4096, tokens), "output_norm.weight": (4096,), "output.weight": (4096, tokens)}
    for layer in range(LAYERS):
        tensors |= {f"blk.{layer}.{part}.weight": shape for part, shape in _LAYER.items()}
    infos, offset = b"", 0
    for tensor, shape in tensors.items():
        kind = _Q4_K if len(shape) == 2 else _F32
        infos += gguf_text(tensor) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        values = shape[0] * (shape[1] if len(shape) == 2 else 1)
        offset += values // 256 * 144 if kind == _Q4_K else 4 * values
    keys = b"".join(before) + vocabulary_keys(tokens, merges) + b"".join(after)
    count = len(before) + 4 + len(after)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + keys + infos
    return head + b"\0" * (-len(head) % 32), offset


def write_real_size(file: Path, name: str = "Real", *, tokens: int = TOKENS, merges: int = MERGES) -> Path:
    """Write such a file, its weights a hole."""
    head, weights = real_size_header(name, tokens=tokens, merges=merges)
    with file.open("wb") as out:
        out.write(head)
        out.truncate(len(head) + weights)
    return file
