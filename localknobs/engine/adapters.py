"""LoRA adapters and control vectors on a loaded model; only worker processes import this.

An adapter changes what every cached token would have been: whoever applies a change goes on with another cache.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from localknobs.engine.adapter_files import (
    AdapterFile,
    AdapterKind,
    check_adapters,
    direction_layer,
    layer_range,
    read_adapters,
)
from localknobs.engine.llama import LoadedModel, lib
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadFile, LocalknobsError
from localknobs.gguf_info import Header

Floats = npt.NDArray[np.float32]


class Key(NamedTuple):
    """What of adapters changes the numbers of a model; the base alone, also by scales of 0, is the empty one.

    Args:
        adapters: The content of each that acts, with its scale.
        vectors: The same of control vectors.
        layers: First and last layer of these; 0 where there are none.
    """

    adapters: tuple[tuple[str, float], ...] = ()
    vectors: tuple[tuple[str, float], ...] = ()
    layers: tuple[int, int] = (0, 0)


class Adapters:
    """What acts beside one model: chosen at any time, put on when the next tokens are computed.

    Args:
        model: The loaded model.
        header: Of its file.

    Attributes:
        wanted: The key of what was chosen.
        on: The key of what is on the model's context now.
    """

    def __init__(self, model: LoadedModel, header: Header) -> None:
        self._model = model
        self._header = header
        self._handles: dict[str, Any] = {}
        self._directions: dict[str, Floats] = {}
        self._chosen: set[str] = set()
        self._any_base = "off"
        self._context = model.contexts_made  # a new context has nothing on it
        self.wanted = self.on = Key()

    def choose(self, settings: LoadSettings) -> tuple[str, ...]:
        """Take what settings name, and read its files; what is on the model stays until `apply`.

        Returns:
            What the user should know about the files that are new.

        Raises:
            NotFound, BadFile, Unsupported, BadValue: one is missing or not of this model; nothing changed.
        """
        files = read_adapters(settings)
        # What was looked at and told is not told again at every step of a slider.
        known = self._chosen if settings.lora_any_base == self._any_base else set()
        notes = check_adapters([file for file in files if file.mark not in known], self._header, settings)
        self.take(files, settings)
        return notes

    def take(self, files: Sequence[AdapterFile], settings: LoadSettings) -> None:
        """Take files that were read and checked already, as `choose` takes those it reads itself.

        Raises:
            BadFile: llama.cpp refuses one of them.
            BadValue: the range of layers is none.
        """
        for file in files:
            if file.kind == "adapter" and file.mark not in self._handles:
                self._handles[file.mark] = self._load(file)
            elif file.kind == "control vector" and file.mark not in self._directions:
                self._directions[file.mark] = self._read_directions(file)
        self._any_base = settings.lora_any_base
        self._chosen = {file.mark for file in files}
        vectors = _acting(files, "control vector")
        layers = layer_range(settings, self._header) if vectors else (0, 0)
        self.wanted = Key(_acting(files, "adapter"), vectors, layers)

    @property
    def pending(self) -> bool:
        """Whether `apply` would change something."""
        return self.wanted != self.on or self._context != self._model.contexts_made

    def apply(self) -> None:
        """Put on the model what was chosen; the cache is then of another model."""
        key, steered = self.wanted, bool(self.on.vectors) and self._context == self._model.contexts_made
        self._put_on(key.adapters)
        if key.vectors or steered:
            self._steer(key)
        self.on, self._context = key, self._model.contexts_made
        for mark in [mark for mark in self._handles if mark not in self._chosen]:
            lib.llama_adapter_lora_free(self._handles.pop(mark))  # it is on no context any more

    def _load(self, file: AdapterFile) -> Any:
        handle = lib.llama_adapter_lora_init(self._model.pointer, os.fsencode(file.path))
        if not handle:
            raise BadFile(
                f"llama.cpp cannot put the adapter {file.path} on this model",
                "It must be a GGUF adapter made for it: localknobs convert ADAPTER --base BASE.",
            )
        return handle

    def _read_directions(self, file: AdapterFile) -> Floats:
        """Return the vectors of the layers from 1 on, zeros where there is none, as llama.cpp takes them."""
        width, layers = self._header.number("embedding_length"), self._header.number("block_count")
        found = np.zeros((layers, width), np.float32)
        for tensor in file.header.tensors:
            if layer := direction_layer(tensor.name):
                found[layer - 1] = np.fromfile(file.path, "<f4", width, offset=file.header.data_start + tensor.offset)
        return found

    def _put_on(self, scales: Sequence[tuple[str, float]]) -> None:
        count = len(scales)
        # llama.cpp ends the process on a null pointer with a count.
        handles, factors = (lib.llama_adapter_lora_p_ctypes * max(1, count))(), (ctypes.c_float * max(1, count))()
        for at, (mark, scale) in enumerate(scales):
            handles[at], factors[at] = self._handles[mark], scale
        if lib.llama_set_adapters_lora(self._model.context, handles, count, factors):
            raise LocalknobsError("llama.cpp refuses these adapters", "They may be of another model.")

    def _steer(self, key: Key) -> None:
        """Put the sum of the control vectors on the context, or take it off."""
        width, data, length = self._header.number("embedding_length"), None, 0
        if key.vectors:
            total = sum((np.float32(scale) * self._directions[mark] for mark, scale in key.vectors), np.float32(0))
            total = np.ascontiguousarray(total, np.float32)
            data, length = total.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), total.size
        if lib.llama_set_adapter_cvec(self._model.context, data, length, width, *key.layers):
            raise LocalknobsError("llama.cpp refuses these control vectors", "They may be of another model.")


def _acting(files: Sequence[AdapterFile], kind: AdapterKind) -> tuple[tuple[str, float], ...]:
    """Return each content that acts, with its scale; one that is named twice acts with the sum."""
    scales: dict[str, float] = {}
    for file in files:
        if file.kind == kind:
            scales[file.mark] = scales.get(file.mark, 0.0) + file.scale
    return tuple(sorted((mark, scale) for mark, scale in scales.items() if scale))


def put_on(model: LoadedModel, header: Header, settings: LoadSettings) -> tuple[str, ...]:
    """Put on a model, whose cache is empty, what its settings name; return what the user should know.

    Raises:
        NotFound, BadFile, Unsupported, BadValue: as `Adapters.choose`.
    """
    adapters = Adapters(model, header)
    notes = adapters.choose(settings)
    adapters.apply()
    return notes
