"""Small GGUF models made in a test: random weights of any shape, and one that writes exactly what it is told to.

Both are of architecture `llama`, with a SentencePiece vocabulary of all 256 bytes, a few markers, and as
many fillers as wished.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

UNKNOWN, BEGIN, END, TURN, TURN_END = range(5)
MARKERS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
FIRST_BYTE = len(MARKERS)
SMALLEST_VOCABULARY = FIRST_BYTE + 256
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokens(text: str | bytes) -> list[int]:
    """Return the tokens that a text is read as (no fillers used); SentencePiece makes a space U+2581."""
    data = text.encode() if isinstance(text, str) else text
    return written_tokens(data.replace(b" ", "\u2581".encode()))


def written_tokens(data: bytes) -> list[int]:
    """Return the tokens with which a model writes these bytes."""
    return [FIRST_BYTE + byte for byte in data]


def _writer(
    path: Path, *, layers: int, width: int, heads: int, kv_heads: int, feed_forward: int, context: int,
    fillers: Sequence[str], added: Sequence[str], template: str | None, keys: Mapping[str, Any],
    architecture: str = "llama", rotary: int = 0,
) -> gguf.GGUFWriter:  # fmt: skip
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(rotary or width // heads)
    _add_tokenizer(writer, fillers=fillers, added=added, template=template)
    for key, value in keys.items():
        add = {
            str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, bool: writer.add_bool,
        }[type(value)]  # fmt: skip
        add(key, value)
    return writer


def _add_tokenizer(
    writer: gguf.GGUFWriter, *, fillers: Sequence[str], added: Sequence[str], template: str | None
) -> None:
    kinds = gguf.TokenType
    markers = [kinds.UNKNOWN, *[kinds.CONTROL] * (len(MARKERS) - 1)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*MARKERS, *(f"<0x{byte:02X}>" for byte in range(256)), *added, *fillers])
    types = [*markers, *[kinds.BYTE] * 256, *[kinds.USER_DEFINED] * len(added), *[kinds.NORMAL] * len(fillers)]
    writer.add_token_types(types)
    writer.add_token_scores([0.0] * (SMALLEST_VOCABULARY + len(added)) + [-1.0 - at for at in range(len(fillers))])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_eot_token_id(TURN_END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_random_model(
    path: Path, *, layers: int = 2, width: int = 64, heads: int = 4, kv_heads: int = 2, feed_forward: int = 128,
    context: int = 512, fillers: int | Sequence[str] = (), added: Sequence[str] = (), template: str | None = TEMPLATE,
    kind: str = "F32", seed: int = 0, keys: Mapping[str, Any] | None = None, never_ends: bool = False,
    loud_layers: int | None = None, whisper: float = 0.0, sharpness: float = 1.0, architecture: str = "llama",
    rotary: int = 0, norm_spread: float = 0.0,
) -> Path:  # fmt: skip
    """Write a model of random weights; return its path.

    Args:
        path: Where to.
        layers, width, heads, kv_heads, feed_forward, context: Its shape.
        fillers: Ordinary tokens after the bytes, or how many to make up.
        added: Tokens of the kind `user defined`.
        template: Chat template, None for none.
        kind: Type of the matrices: F32, F16 or Q8_0.
        seed: Of the weights.
        keys: More header keys.
        never_ends: Whether an end token is never likely enough to be drawn.
        loud_layers: Layers that count fully, all by default; the others add `whisper` times as much. The same seed
            gives the same first layers, so that a model of few layers guesses what one of many writes.
        whisper: Of the other layers.
        architecture: `llama`; `phi3`, whose heads may be rotated in part; `olmo2`, whose first three layers of four
            have a sliding window, if `keys` name one.
        rotary: Values of a head that are rotated, all by default.
        sharpness: Factor on the logits; 1 makes nearly all tokens equally likely.
        norm_spread: How far the weights of norms lie from 1, at random, as those of a trained model do.
    """
    if isinstance(fillers, int):
        fillers = [f"\u2581w{at}" for at in range(fillers)]
    writer = _writer(
        path, layers=layers, width=width, heads=heads, kv_heads=kv_heads, feed_forward=feed_forward, context=context,
        fillers=fillers, added=added, template=template, keys=keys or {}, architecture=architecture, rotary=rotary,
    )  # fmt: skip
    random = np.random.default_rng(seed)
    vocabulary = SMALLEST_VOCABULARY + len(fillers) + len(added)
    type_of = gguf.GGMLQuantizationType[kind]

    def matrix(name: str, rows: int, columns: int, scale: float | None = None, loudness: float = 1.0) -> None:
        data = random.standard_normal((rows, columns), np.float32)
        data *= loudness * (scale or columns**-0.5)
        if name == "output.weight" and never_ends:
            data[: len(MARKERS)] = 0  # a score of 0 is far below the best of thousands of random ones
        if kind == "F32":
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, gguf.quants.quantize(data, type_of), raw_dtype=type_of)

    def ones(name: str, size: int = width) -> None:
        values = np.ones(size, np.float32)
        if norm_spread:
            values += norm_spread * random.standard_normal(size, np.float32)
        writer.add_tensor(name, values)

    key_width = width // heads * kv_heads
    matrix("token_embd.weight", vocabulary, width, 1.0)
    ones("output_norm.weight")
    matrix("output.weight", vocabulary, width, loudness=sharpness)
    for layer in range(layers):
        block = f"blk.{layer}."
        loudness = 1.0 if loud_layers is None or layer < loud_layers else whisper
        norms = {"attn_norm": width, "ffn_norm": width}
        if architecture == "olmo2":
            norms = {
                "attn_q_norm": width, "attn_k_norm": key_width, "post_attention_norm": width, "post_ffw_norm": width
            }  # fmt: skip
        for norm, size in norms.items():
            ones(block + f"{norm}.weight", size)
        matrix(block + "attn_q.weight", width, width, 1.5 * width**-0.5)
        matrix(block + "attn_k.weight", key_width, width, 1.5 * width**-0.5)
        matrix(block + "attn_v.weight", key_width, width)
        matrix(block + "attn_output.weight", width, width, loudness=loudness)
        if architecture == "phi3":  # gate and up lie in one
            matrix(block + "ffn_up.weight", 2 * feed_forward, width)
        else:
            matrix(block + "ffn_gate.weight", feed_forward, width)
            matrix(block + "ffn_up.weight", feed_forward, width)
        matrix(block + "ffn_down.weight", width, feed_forward, loudness=loudness)
    _finish(writer)
    return path


def write_recurrent_model(path: Path, *, layers: int = 1, width: int = 64, state: int = 16, context: int = 512) -> Path:
    """Write a Mamba of random weights, whose memory is a state and no list of tokens; return its path."""
    writer = gguf.GGUFWriter(path, "mamba")
    inner, rank = 2 * width, 4
    writer.add_name(path.stem)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    _add_tokenizer(writer, fillers=(), added=(), template=TEMPLATE)
    random = np.random.default_rng(0)
    shapes = {"token_embd.weight": (SMALLEST_VOCABULARY, width), "output_norm.weight": (width,)}
    for layer in range(layers):
        block = {
            "attn_norm.weight": (width,), "ssm_in.weight": (2 * inner, width), "ssm_conv1d.weight": (inner, 4),
            "ssm_conv1d.bias": (inner,), "ssm_x.weight": (rank + 2 * state, inner), "ssm_dt.weight": (inner, rank),
            "ssm_dt.bias": (inner,), "ssm_a": (inner, state), "ssm_d": (inner,), "ssm_out.weight": (width, inner),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        data = random.standard_normal(shape, np.float32) * shape[-1] ** -0.5
        writer.add_tensor(name, -np.abs(data) if name.endswith("ssm_a") else data)
    _finish(writer)
    return path


def write_scripted_model(
    path: Path,
    script: Iterable[int],
    *,
    context: int = 512,
    fillers: Sequence[str] = (),
    template: str | None = TEMPLATE,
) -> Path:
    """Write a model whose likeliest next token is always the one after the present one in `script`; return its path.

    The blocks add nothing, so the next token follows from the present one alone: a token that comes twice
    in the script must be followed by the same one both times. What is not in the script goes to its first
    token. The likeliest token leads by so much that temperature hardly matters.
    """
    order = list(script)
    vocabulary = SMALLEST_VOCABULARY + len(fillers)
    after = dict.fromkeys(range(vocabulary), order[0])
    for present, following in zip(order, order[1:], strict=False):
        assert after[present] in (order[0], following) or present == order[0], "a token is followed by two"
        after[present] = following
    scores = np.zeros((vocabulary, vocabulary), np.float32)
    for present, following in after.items():
        scores[following, present] = 2.0 * _padded(vocabulary) ** 0.5
    return _write_bigram_model(path, scores, context=context, fillers=fillers, template=template)


def write_markov_model(
    path: Path, tokens: Sequence[int], chances: np.ndarray, *, context: int = 512, template: str | None = TEMPLATE
) -> Path:
    """Write a model whose next token depends on the present one alone, with known chances; return its path.

    Args:
        path: Where to.
        tokens: Those it writes, and no others.
        chances: chances[i, j] is the probability that token j of them follows token i. After all other tokens, as
            after the first of them.
        context, template: As of a random model.
    """
    scores = np.full((SMALLEST_VOCABULARY, SMALLEST_VOCABULARY), -50, np.float32)
    scores[tokens, :] = np.log(chances[0])[:, None]
    scores[np.ix_(tokens, tokens)] = np.log(chances.T)
    return _write_bigram_model(path, scores, context=context, template=template)


def _padded(vocabulary: int) -> int:
    return (vocabulary + 31) // 32 * 32


def _write_bigram_model(
    path: Path, scores: np.ndarray, *, context: int, fillers: Sequence[str] = (), template: str | None = TEMPLATE
) -> Path:
    """Write a model whose blocks add nothing: scores[following, present] are its logits."""
    vocabulary = len(scores)
    width = _padded(vocabulary)
    writer = _writer(
        path, layers=1, width=width, heads=2, kv_heads=1, feed_forward=32, context=context, fillers=fillers, added=(),
        template=template, keys={},
    )  # fmt: skip
    output = np.zeros((vocabulary, width), np.float32)
    output[:, :vocabulary] = scores / width**0.5  # the norm makes sqrt(width) of a one
    writer.add_tensor("token_embd.weight", np.eye(vocabulary, width, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
    shapes = {
        "attn_q": (width, width), "attn_k": (width // 2, width), "attn_v": (width // 2, width),
        "attn_output": (width, width), "ffn_gate": (32, width), "ffn_up": (32, width), "ffn_down": (width, 32),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(width, np.float32))
    _finish(writer)
    return path


def nudged(source: Path, target: Path, size: float) -> Path:
    """Write a model whose matrices differ a little from another's; return its path."""
    data = bytearray(source.read_bytes())
    reader = gguf.GGUFReader(source)
    random = np.random.default_rng(7)
    for tensor in reader.tensors:
        if tensor.name.endswith("weight") and len(tensor.shape) == 2:
            values = tensor.data + size * tensor.data.std() * random.standard_normal(tensor.data.shape, np.float32)
            data[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = values.astype(np.float32).tobytes()
    target.write_bytes(data)
    return target
