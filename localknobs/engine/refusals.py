"""What is refused before a model is loaded: settings that end llama.cpp's process or give wrong answers in silence.

Pure functions of a file's header and the settings; each refusal names the knob, the reason and a way out.
"""

from __future__ import annotations

from localknobs.engine.placement import gpu_shares, tensor_places
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue, LocalknobsError, Unsupported
from localknobs.ggml_types import GGML_TYPES
from localknobs.gguf_info import Header
from localknobs.knobs import KNOBS, knobs_of
from localknobs.knobs.cache import CACHE_TYPES

_BLOCKS = {name.lower(): block for name, block, _ in GGML_TYPES.values()}
_FLOATS = ("f32", "f16", "bf16")


def check_settings(header: Header, settings: LoadSettings) -> None:
    """Refuse settings that this model cannot be loaded with.

    Raises:
        BadValue: a value or a combination of values; the message names the knobs.
        Unsupported: this model cannot do what is wished.
    """
    for name in ("cache_type_k", "cache_type_v"):
        _check_cache_type(name, getattr(settings, name))
    for row in knobs_of("loading"):
        row.check(getattr(settings, row.name))
    gpu_shares(settings)
    tensor_places(settings)
    _check_cache(header, settings)
    _check_rope(header, settings)
    check_when_full(header, settings)
    if settings.split_mode == "tensor" and settings.flash_attn == "off":
        raise _together("split_mode", "tensor", "flash_attn", "off", "llama.cpp computes split tensors with it only")


def check_when_full(header: Header, settings: LoadSettings) -> None:
    """Refuse ways of making room that this model cannot go, as far as its header tells.

    Raises:
        Unsupported: the message names the knob.
    """
    if settings.drop_by == "shift" and (reason := why_no_shift(header, settings)):
        raise no_shift(reason)
    if settings.context_full == "attended" and settings.cache_type_v not in _FLOATS:
        raise Unsupported(
            "context_full (--context-full) cannot be attended with a quantized V: scores of attention are only "
            "there with flash attention off",
            "Use -ctv f16, or sinks.",
        )


def no_shift(reason: str) -> Unsupported:
    """Return the error that refuses a shift."""
    return Unsupported(f"drop_by (--drop-by) cannot be shift: {reason}", "Use auto, hole or reread.")


def why_no_shift(header: Header, settings: LoadSettings) -> str:
    """Return why moving positions in the cache would crash or corrupt it, empty when it would not.

    llama.cpp turns keys by the shift with the same call that turned them first, which multiplies them by YaRN's
    attention factor again each time; and it cannot read back a quantized key that is rotated in part.
    """
    prefix = f"{header.architecture}.rope."
    yarn = settings.rope_scaling == "yarn" or (
        settings.rope_scaling == "model" and header.text(prefix + "scaling.type") in ("yarn", "longrope")
    )
    if yarn or settings.yarn_ext_factor > 0 or prefix + "scaling.attn_factor" in header.metadata:
        return "with YaRN or LongRoPE each shift multiplies every key again, and the cache is corrupted"
    if settings.cache_type_k not in _FLOATS and any(rotary_size(header) < size for size in key_head_sizes(header)):
        return "this model's heads are rotated in part, and with a quantized K llama.cpp ends on a shift"
    return ""


def key_head_sizes(header: Header) -> tuple[int, ...]:
    """Return the sizes of one head's key: of full layers, and of sliding ones where they differ."""
    return _head_sizes(header, "attention.key_length")


def value_head_sizes(header: Header) -> tuple[int, ...]:
    """Return the sizes of one head's value."""
    return _head_sizes(header, "attention.value_length")


def rotary_size(header: Header) -> int:
    """Return how many values of a key are rotated; less than its size in a partial-rotary model."""
    return header.number("rope.dimension_count") or max(key_head_sizes(header), default=0)


def _head_sizes(header: Header, key: str) -> tuple[int, ...]:
    heads = [count for count in header.per_layer("attention.head_count") if count]
    width = header.number("embedding_length")
    sizes = {header.number(key) or (width // max(heads) if heads else 0), header.number(key + "_swa")}
    return tuple(sorted(sizes - {0}))


def _check_cache_type(name: str, value: object) -> None:
    """Say why a known type is refused, where the row could only list the others."""
    if not isinstance(value, str) or value.lower() in CACHE_TYPES or value.lower() not in _BLOCKS:
        return
    kind = value.lower()
    if kind.startswith(("iq", "tq")):
        why = "llama.cpp ends on it, or gives garbage: it cannot write that type token by token"
    elif _BLOCKS[kind] == 256:
        why = "its blocks have 256 values, more than a head, and llama.cpp ends on it"
    else:
        why = "llama.cpp cannot write that type token by token"
    raise BadValue(f"{name} ({KNOBS[name].flags[0]}) cannot be {value}: {why}", f"Use {', '.join(CACHE_TYPES)}.")


def _check_cache(header: Header, settings: LoadSettings) -> None:
    for name, kind, sizes in (
        ("cache_type_k", settings.cache_type_k, key_head_sizes(header)),
        ("cache_type_v", settings.cache_type_v, value_head_sizes(header)),
    ):
        block = _BLOCKS[kind]
        if odd := [size for size in sizes if size % block]:
            # With flash attention llama.cpp refuses too; without, the numbers are wrong and nothing tells.
            raise Unsupported(
                f"{name} ({KNOBS[name].flags[0]}) cannot be {kind}: this model's heads have {odd[0]} values, "
                f"and {kind} packs {block} into a block",
                f"Use {', '.join(_FLOATS)}.",
            )
    if settings.cache_type_v not in _FLOATS and settings.flash_attn == "off":
        raise _together(
            "cache_type_v", settings.cache_type_v, "flash_attn", "off", "quantized values need flash attention"
        )
    if header.number("attention.key_length_mla") and settings.cache_type_k != settings.cache_type_v:
        raise Unsupported(
            f"cache_type_k is {settings.cache_type_k} and cache_type_v is {settings.cache_type_v}, and this model "
            "keeps both in one (latent attention)",
            "Give both the same type.",
        )


def _check_rope(header: Header, settings: LoadSettings) -> None:
    declared = header.text(f"{header.architecture}.rope.scaling.type")
    if declared == "longrope" and (settings.rope_scale or settings.rope_freq_scale or settings.rope_scaling != "model"):
        raise Unsupported(
            "This model scales by LongRoPE, whose factors llama.cpp goes on applying: a second scaling would compound",
            f"Leave RoPE as it is; the file reaches {header.context_trained:,} tokens by itself.",
        )
    if settings.rope_scale and settings.rope_freq_scale:
        raise BadValue(
            f"rope_scale (--rope-scale) is {settings.rope_scale:g} and rope_freq_scale (--rope-freq-scale) is "
            f"{settings.rope_freq_scale:g}: both say the same in two ways",
            "Give one of them.",
        )
    if settings.rope_scaling == "none" and (settings.rope_scale or settings.rope_freq_scale):
        raise BadValue(
            "rope_scaling (--rope-scaling) is none, with which llama.cpp ignores every factor",
            "Use linear or yarn, or leave the factor out.",
        )
    fast = settings.yarn_beta_fast if settings.yarn_beta_fast >= 0 else 32
    slow = settings.yarn_beta_slow if settings.yarn_beta_slow >= 0 else 1
    if fast <= slow:
        raise BadValue(
            f"yarn_beta_fast ({fast:g}) must be above yarn_beta_slow ({slow:g})",
            "YaRN's own are 32 and 1.",
        )


def _together(first: str, first_value: str, second: str, second_value: str, why: str) -> LocalknobsError:
    return BadValue(
        f"{first} ({KNOBS[first].flags[0]}) {first_value} does not go with {second} ({KNOBS[second].flags[0]}) "
        f"{second_value}: {why}",
        f"Leave {KNOBS[second].flags[0]} out, or change the other.",
    )
