"""A graphics card that is not there: a device that llama.cpp plans memory for, and never computes on.

llama.cpp asks a device a dozen questions (memory, alignment, which operations) before it places weights, cache and
buffers. With `no_alloc` it goes no further. The answers here are a CUDA card's (ggml-cuda.cu), so the plan for a
card can be had on a machine without it. Source: ggml-backend-impl.h, interface version 2; another is refused.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from localknobs.engine.accounting import ggml_function, llama_library
from localknobs.engine.binding import lib

API_VERSION = 2
_GPU = 1  # GGML_BACKEND_DEVICE_TYPE_GPU
_ALIGNMENT = 128
_F16 = 1  # GGML_TYPE_F16
_LARGE_BATCH = 32
"""Rows from which a CUDA card also takes work on weights that lie in main memory (GGML_OP_OFFLOAD_MIN_BATCH)."""
_POINTER, _BYTES, _SIZE, _BOOL = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_bool


class _Tensor(ctypes.Structure):
    """The beginning of ggml_tensor (ggml.h)."""

    _fields_ = [
        ("type", ctypes.c_int), ("buffer", _POINTER), ("ne", ctypes.c_int64 * 4), ("nb", _SIZE * 4),
        ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32), ("src", _POINTER * 10),
    ]  # fmt: skip


def _table(*names: str) -> type[ctypes.Structure]:
    """Return a structure of function pointers, all null until set."""
    return type("Table", (ctypes.Structure,), {"_fields_": [(name, _POINTER) for name in names]})


_BufferTypeTable = _table("get_name", "alloc_buffer", "get_alignment", "get_max_size", "get_alloc_size", "is_host")
_BackendTable = _table(
    "get_name", "free", "set_tensor_async", "get_tensor_async", "set_tensor_2d_async", "get_tensor_2d_async",
    "cpy_tensor_async", "synchronize", "graph_plan_create", "graph_plan_free", "graph_plan_update",
    "graph_plan_compute", "graph_compute", "event_record", "event_wait", "graph_optimize",
)  # fmt: skip
_DeviceTable = _table(
    "get_name", "get_description", "get_memory", "get_type", "get_props", "init_backend", "get_buffer_type",
    "get_host_buffer_type", "buffer_from_host_ptr", "supports_op", "supports_buft", "offload_op", "event_new",
    "event_free", "event_synchronize",
)  # fmt: skip
_RegistryTable = _table("get_name", "get_device_count", "get_device", "get_proc_address")


class _BufferType(ctypes.Structure):
    _fields_ = [("table", _BufferTypeTable), ("device", _POINTER), ("context", _POINTER)]


class _Backend(ctypes.Structure):
    _fields_ = [("guid", _POINTER), ("table", _BackendTable), ("device", _POINTER), ("context", _POINTER)]


class _Device(ctypes.Structure):
    _fields_ = [("table", _DeviceTable), ("registry", _POINTER), ("context", _POINTER)]


class _Registry(ctypes.Structure):
    _fields_ = [("api_version", ctypes.c_int), ("table", _RegistryTable), ("context", _POINTER)]


class _Properties(ctypes.Structure):
    _fields_ = [
        ("name", _BYTES), ("description", _BYTES), ("memory_free", _SIZE), ("memory_total", _SIZE),
        ("type", ctypes.c_int), ("device_id", _BYTES), ("asynchronous", _BOOL), ("host_buffer", _BOOL),
        ("buffer_from_host_ptr", _BOOL), ("events", _BOOL), ("mmap_support", _BOOL),
    ]  # fmt: skip


def interface_is_known() -> bool:
    """Whether this build's backends speak the version of the interface that is written down here."""
    first = ggml_function("ggml_backend_reg_get", _POINTER, _SIZE)(0)
    return bool(first) and _Registry.from_address(first).api_version == API_VERSION


class PretendedDevice:
    """One card. It must outlive every model that was planned on it.

    Args:
        name: ggml's name of it, such as `GPU0`.
        total_bytes: Its memory.
        free_bytes: What of it llama.cpp may plan with; it decides how layers are split between several cards.

    Attributes:
        address: Of the device, for `llama_model_params.devices`.
    """

    def __init__(self, name: str, total_bytes: int, free_bytes: int) -> None:
        self._kept: list[Any] = []  # a collected callback that C still calls is a crash
        self._name = name.encode()
        self._sizes = (free_bytes, total_bytes)
        self._bytes_of = ggml_function("ggml_nbytes", _SIZE, _POINTER)
        self._operations = _operations()
        self._registry, self._device = _Registry(api_version=API_VERSION), _Device()
        self._buffer_type, self._backend = _BufferType(), _Backend()
        self._guid = ctypes.create_string_buffer(16)
        self.address = ctypes.addressof(self._device)
        self._device.registry = ctypes.addressof(self._registry)
        self._buffer_type.device = self.address
        self._backend.guid, self._backend.device = ctypes.addressof(self._guid), self.address
        self._fill()

    def _fill(self) -> None:
        """Give every table its answers."""
        buffer_type, backend = ctypes.addressof(self._buffer_type), ctypes.addressof(self._backend)
        registry = self._registry.table
        self._set(registry, "get_name", _BYTES, lambda _: self._name, _POINTER)
        self._set(registry, "get_device_count", _SIZE, lambda _: 1, _POINTER)
        self._set(registry, "get_device", _POINTER, lambda *_: self.address, _POINTER, _SIZE)
        self._set(registry, "get_proc_address", _POINTER, lambda *_: None, _POINTER, _BYTES)
        device = self._device.table
        self._set(device, "get_name", _BYTES, lambda _: self._name, _POINTER)
        self._set(device, "get_description", _BYTES, lambda _: self._name, _POINTER)
        sizes = ctypes.POINTER(_SIZE)
        self._set(device, "get_memory", None, self._tell_memory, _POINTER, sizes, sizes)
        self._set(device, "get_type", ctypes.c_int, lambda _: _GPU, _POINTER)
        self._set(device, "get_props", None, self._tell_properties, _POINTER, ctypes.POINTER(_Properties))
        self._set(device, "init_backend", _POINTER, lambda *_: backend, _POINTER, _BYTES)
        self._set(device, "get_buffer_type", _POINTER, lambda _: buffer_type, _POINTER)
        if lib.llama_supports_mmap():
            # Asked thousands of times a plan: a function in C that takes no notice of its arguments and says yes.
            device.supports_op = ctypes.cast(llama_library.llama_supports_mmap, _POINTER).value
        else:
            self._set(device, "supports_op", _BOOL, lambda *_: True, _POINTER, _POINTER)
        self._set(device, "supports_buft", _BOOL, lambda _, asked: asked == buffer_type, _POINTER, _POINTER)
        self._set(device, "offload_op", _BOOL, self._takes_from_memory, _POINTER, ctypes.POINTER(_Tensor))
        self._set(self._buffer_type.table, "get_name", _BYTES, lambda _: self._name, _POINTER)
        self._set(self._buffer_type.table, "get_alignment", _SIZE, lambda _: _ALIGNMENT, _POINTER)
        self._set(self._buffer_type.table, "get_alloc_size", _SIZE, self._room_for, _POINTER, _POINTER)
        self._room_for_address = self._buffer_type.table.get_alloc_size
        self._set(self._backend.table, "get_name", _BYTES, lambda _: self._name, _POINTER)
        self._set(self._backend.table, "free", None, lambda _: None, _POINTER)
        self._set(self._backend.table, "synchronize", None, lambda _: None, _POINTER)

    def _set(self, table: Any, name: str, result: Any, answer: Callable[..., Any], *arguments: Any) -> None:
        # A callback may not return c_char_p: the bytes live as long as self, so their address does.
        if result is _BYTES:
            given = answer
            answer, result = lambda *asked: ctypes.cast(given(*asked), _POINTER).value, _POINTER
        function = ctypes.CFUNCTYPE(result, *arguments)(answer)
        self._kept.append(function)
        setattr(table, name, ctypes.cast(function, _POINTER).value)

    def _tell_memory(self, _: Any, free: Any, total: Any) -> None:
        free[0], total[0] = self._sizes

    def _tell_properties(self, _: Any, properties: Any) -> None:
        free, total = self._sizes
        properties[0] = _Properties(
            name=self._name, description=self._name, memory_free=free, memory_total=total, type=_GPU,
            asynchronous=True, host_buffer=True, events=True, mmap_support=True,
        )  # fmt: skip

    def prepare_for_cache(self, *, is_f16: bool) -> None:
        """Set how attention is to be measured: on another cache than of f16 a card makes copies of it in f16.

        Without, ggml's own size of a tensor is right, but for less than a row of padding, and is quicker to ask for.
        """
        self._buffer_type.table.get_alloc_size = None if is_f16 else self._room_for_address

    def _room_for(self, _: Any, tensor: int) -> int:
        size = int(self._bytes_of(tensor))
        if ctypes.c_int.from_address(tensor + _Tensor.op.offset).value == self._operations[b"FLASH_ATTN_EXT"]:
            one = _Tensor.from_address(tensor)
            for source in (one.src[1], one.src[2]):
                part = _Tensor.from_address(source)
                if part.type != _F16:
                    size += 2 * part.ne[0] * part.ne[1] * part.ne[2] * part.ne[3]
        return size

    def _takes_from_memory(self, _: Any, tensor: Any) -> bool:
        one = tensor[0]
        if one.op == self._operations[b"GET_ROWS"]:
            return False
        if one.op == self._operations[b"MUL_MAT"]:
            return bool(one.ne[1] >= _LARGE_BATCH)
        if one.op in (self._operations[b"MUL_MAT_ID"], self._operations[b"ROPE"]):
            return bool(one.ne[2] >= _LARGE_BATCH)
        return bool(one.ne[1] * one.ne[2] * one.ne[3] >= _LARGE_BATCH)


def _operations() -> dict[bytes, int]:
    """Return the numbers of the operations that are asked about; they differ between versions."""
    wanted = {b"FLASH_ATTN_EXT", b"GET_ROWS", b"MUL_MAT", b"MUL_MAT_ID", b"ROPE"}
    name_of = ggml_function("ggml_op_name", _BYTES, ctypes.c_int)
    found: dict[bytes, int] = {}
    number = 0
    while len(found) < len(wanted):  # never past the last one: there is no check behind ggml_op_name
        if (name := name_of(number)) in wanted:
            found[name] = number
        number += 1
    return found
