"""How a model is to be loaded, in llama.cpp's own structures: the one place that turns settings into them.

Read by the worker that loads a model and by whoever only asks what a load would take (`no_alloc`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from localknobs.engine.binding import lib, libggml
from localknobs.engine.placement import gpu_shares, tensor_places
from localknobs.engine.refusals import check_settings
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue
from localknobs.ggml_types import GGML_TYPES
from localknobs.gguf_info import Header

_ROPE_TYPES = {
    "model": lib.LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED, "none": lib.LLAMA_ROPE_SCALING_TYPE_NONE,
    "linear": lib.LLAMA_ROPE_SCALING_TYPE_LINEAR, "yarn": lib.LLAMA_ROPE_SCALING_TYPE_YARN,
}  # fmt: skip
_FLASH_TYPES = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO, "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}  # fmt: skip
_SPLIT_MODES = {
    "none": lib.LLAMA_SPLIT_MODE_NONE, "layer": lib.LLAMA_SPLIT_MODE_LAYER, "row": lib.LLAMA_SPLIT_MODE_ROW,
    "tensor": lib.LLAMA_SPLIT_MODE_TENSOR,
}  # fmt: skip
_TYPE_NUMBERS = {name.lower(): number for number, (name, _, _) in GGML_TYPES.items()}
_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""The experts of every layer (llama.cpp common/common.h, LLM_FFN_EXPS_REGEX)."""


class _BufferOverride(ctypes.Structure):
    """`llama_model_tensor_buft_override` of llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer", ctypes.c_void_p))


@dataclass(slots=True)
class LlamaParameters:
    """llama.cpp's structures for one load; keep it as long as the model.

    Args:
        model: `llama_model_params`.
        context: `llama_context_params`.
        kept: What the structures point to.
    """

    model: Any
    context: Any
    kept: list[Any] = field(default_factory=list)


def llama_parameters(
    settings: LoadSettings,
    header: Header,
    context_size: int,
    *,
    threads: int = 1,
    use_extra_bufts: bool = False,
) -> LlamaParameters:
    """Return the structures with which llama.cpp loads a model as the settings say; loads nothing itself.

    Args:
        settings: Which file, and how.
        header: Of the same file.
        context_size: Tokens, as `plan_context` chose them.
        threads: CPU threads to begin with.
        use_extra_bufts: Whether llama.cpp may keep repacked weights.

    Raises:
        BadValue, Unsupported: a combination that would crash llama.cpp or give wrong answers.
    """
    check_settings(header, settings)
    made = LlamaParameters(lib.llama_model_default_params(), lib.llama_context_default_params())
    _fill_model(made, settings, use_extra_bufts)
    _fill_context(made.context, settings, header, context_size, threads)
    return made


def _fill_model(made: LlamaParameters, settings: LoadSettings, use_extra_bufts: bool) -> None:
    model = made.model
    model.n_gpu_layers = settings.n_gpu_layers
    model.use_extra_bufts = use_extra_bufts
    model.split_mode = _SPLIT_MODES[settings.split_mode]
    model.main_gpu = settings.main_gpu
    if shares := gpu_shares(settings):
        room = max(int(lib.llama_max_devices()), len(shares))
        made.kept.append(array := (ctypes.c_float * room)(*shares))
        model.tensor_split = array
    if overrides := _buffer_overrides(settings):
        made.kept.append(ended := (_BufferOverride * (len(overrides) + 1))(*overrides))  # an empty one ends the list
        model.tensor_buft_overrides = ctypes.addressof(ended)


def _fill_context(context: Any, settings: LoadSettings, header: Header, size: int, threads: int) -> None:
    context.n_ctx = size
    context.n_batch = min(settings.n_batch, size) if size else settings.n_batch
    context.n_ubatch = min(settings.n_ubatch, context.n_batch)
    context.n_threads = context.n_threads_batch = threads
    context.no_perf = True
    context.pooling_type = lib.LLAMA_POOLING_TYPE_NONE  # see embedding.py
    context.type_k = _TYPE_NUMBERS[settings.cache_type_k]
    context.type_v = _TYPE_NUMBERS[settings.cache_type_v]
    context.flash_attn_type = _FLASH_TYPES[settings.flash_attn]
    context.offload_kqv = settings.no_kv_offload == "off"
    context.swa_full = settings.swa_full == "on"
    context.rope_scaling_type = _ROPE_TYPES[settings.rope_scaling]
    context.rope_freq_base = settings.rope_freq_base
    context.rope_freq_scale = settings.rope_freq_scale or (1 / settings.rope_scale if settings.rope_scale else 0.0)
    context.yarn_orig_ctx = settings.yarn_orig_ctx
    context.yarn_ext_factor = settings.yarn_ext_factor
    context.yarn_attn_factor = settings.yarn_attn_factor
    context.yarn_beta_fast = settings.yarn_beta_fast
    context.yarn_beta_slow = settings.yarn_beta_slow
    declared = header.text(f"{header.architecture}.rope.scaling.type")
    if declared == "none" and settings.rope_scaling == "model" and context.rope_freq_scale:
        # llama.cpp takes the file's `none` for an order never to scale, and would drop the factor in silence.
        context.rope_scaling_type = lib.LLAMA_ROPE_SCALING_TYPE_LINEAR


def _buffer_overrides(settings: LoadSettings) -> list[_BufferOverride]:
    """Return which tensors lie where, in the order of llama.cpp's own command line: the first match counts."""
    wanted = list(tensor_places(settings))
    if settings.cpu_moe == "on":
        wanted.append((_EXPERTS, "CPU"))
    wanted += [(rf"blk\.{layer}{_EXPERTS}", "CPU") for layer in range(settings.n_cpu_moe)]
    if not wanted:
        return []
    known = buffer_types()
    for _pattern, name in wanted:
        if name not in known:
            raise BadValue(
                f"override_tensor (-ot) names the buffer {name}, which this build does not have",
                f"It has {', '.join(known)}.",
            )
    return [_BufferOverride(pattern.encode(), known[name]) for pattern, name in wanted]


def buffer_types() -> dict[str, int]:
    """Return the name of every device's buffer, such as `CPU` or `CUDA0`, with llama.cpp's address of it."""
    for name, kind, arguments in _GGML:
        function = getattr(libggml, name)
        function.restype, function.argtypes = kind, arguments
    lib.llama_backend_init()  # registers the devices
    found = {}
    for at in range(libggml.ggml_backend_dev_count()):
        if buffer := libggml.ggml_backend_dev_buffer_type(libggml.ggml_backend_dev_get(at)):
            found[libggml.ggml_backend_buft_name(buffer).decode()] = int(buffer)
    return found


_GGML: Sequence[tuple[str, Any, Sequence[Any]]] = (
    ("ggml_backend_dev_count", ctypes.c_size_t, ()),
    ("ggml_backend_dev_get", ctypes.c_void_p, (ctypes.c_size_t,)),
    ("ggml_backend_dev_buffer_type", ctypes.c_void_p, (ctypes.c_void_p,)),
    ("ggml_backend_buft_name", ctypes.c_char_p, (ctypes.c_void_p,)),
)
