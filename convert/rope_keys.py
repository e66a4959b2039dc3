"""RoPE settings as the keys of a model file, so that every program that loads it extends its context by itself."""

from __future__ import annotations

from localknobs.convert.gguf_header import RawKey, float_key, number_key, text_key
from localknobs.engine.rope import rope_of_file, rope_of_load
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue
from localknobs.gguf_info import Header

READS_BETAS = ("grok", "mistral3")
"""Architectures of llama.cpp that read YaRN's betas from a file (src/models/)."""


def rope_keys(header: Header, settings: LoadSettings) -> tuple[list[RawKey], list[str]]:
    """Return the keys to write for these settings, and the names of those to leave out.

    Args:
        header: Of the model.
        settings: RoPE knobs; `n_ctx` 0 makes the length the trained one times the factor.

    Raises:
        BadValue: nothing would change, or a knob cannot be written into a file of this architecture.
    """
    prefix = f"{header.architecture}."
    own, rope = rope_of_file(header), rope_of_load(header, settings)
    unwritable = [name for name in ("yarn_ext_factor", "yarn_attn_factor") if getattr(settings, name) >= 0]
    if header.architecture not in READS_BETAS:
        unwritable += [name for name in ("yarn_beta_fast", "yarn_beta_slow") if getattr(settings, name) >= 0]
    if unwritable:
        raise BadValue(
            f"{', '.join(unwritable)}: llama.cpp does not read it from a file of architecture {header.architecture}",
            "Leave it out, or give it at every load.",
        )
    length = settings.n_ctx or (round(rope.original * rope.factor) if rope.factor > 1 else own.trained)
    if rope == own and length == own.trained:
        raise BadValue(
            "The file would stay as it is",
            "Say what to change: --target-ctx 65536, or --rope-scaling yarn --factor 4.",
        )
    scaling = prefix + "rope.scaling."
    without = [
        scaling + "type", scaling + "factor", scaling + "original_context_length", scaling + "finetuned",
        prefix + "rope.scale_linear",
    ]  # fmt: skip
    keys = [number_key(prefix + "context_length", length)]
    if settings.rope_freq_base:
        keys.append(float_key(prefix + "rope.freq_base", rope.base))
    if rope.factor != 1:
        keys += [
            text_key(scaling + "type", rope.method),
            float_key(scaling + "factor", rope.factor),
            number_key(scaling + "original_context_length", rope.original),
        ]
    for name, value in (("yarn_beta_fast", settings.yarn_beta_fast), ("yarn_beta_slow", settings.yarn_beta_slow)):
        if value >= 0:
            keys.append(float_key(scaling + name, value))
    return keys, without
