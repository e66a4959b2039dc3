"""A process that plans memory with llama.cpp and allocates none: `python -m localknobs.engine.planner`.

One JSON command a line on standard input, one answer a line on standard output. Models stay open, so that another
context of the same model is planned in milliseconds. llama.cpp ends the process on some settings; the parent
(`localknobs.fit`) goes on without it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from localknobs.engine import protocol
from localknobs.engine.accounting import read_breakdown
from localknobs.engine.binding import lib
from localknobs.engine.parameters import LlamaParameters, llama_parameters
from localknobs.engine.pretended_device import PretendedDevice, interface_is_known
from localknobs.engine.settings import LoadSettings
from localknobs.errors import LocalknobsError, Unsupported
from localknobs.gguf_info import Header, read_header

MOST_MODELS = 6
"""Planned models that are kept; each takes about a megabyte."""
_ERROR, _CONTINUED = 4, 5  # ggml_log_level of ggml.h
_SHAPING = (
    "model", "n_gpu_layers", "cpu_moe", "n_cpu_moe", "override_tensor", "split_mode", "tensor_split", "main_gpu",
)  # fmt: skip
"""Settings that the model itself depends on; the others are the context's."""
_OUTPUT = re.compile(r"output buffer size =\s*([\d.]+) MiB")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model without its weights, the cards it was placed on, and what llama.cpp still points to."""

    model: Any
    devices: list[PretendedDevice]
    kept: list[Any]


class Planner:
    """Answers commands: `{"settings": fields of LoadSettings, "devices": null or a list, "use_extra_bufts": bool}`.

    Without devices llama.cpp takes the real ones. A device, `{"name", "total_bytes", "free_bytes"}`, is pretended.
    """

    def __init__(self) -> None:
        self._models: OrderedDict[str, _Opened] = OrderedDict()
        self._headers: dict[Path, Header] = {}
        self._errors: list[str] = []
        self._output_bytes = 0

        @lib.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
        def write(level: int, text: bytes, user_data: Any) -> None:
            line = text.decode("utf-8", "replace")
            if found := _OUTPUT.search(line):
                self._output_bytes = round(float(found[1]) * 2**20)
            if level == _ERROR:
                self._errors.append(line.strip())
                os.write(2, text)

        self._log = write
        lib.llama_log_set(write, ctypes.c_void_p(0))
        lib.llama_backend_init()

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Plan one context; return its account.

        Raises:
            Unsupported: llama.cpp refuses, or its account cannot be read in this build.
        """
        fields = command["settings"]
        settings = LoadSettings.from_plain(fields)
        self._errors.clear()
        self._output_bytes = 0
        parameters = llama_parameters(
            settings, self._header(settings.model), settings.n_ctx, use_extra_bufts=bool(command["use_extra_bufts"])
        )
        opened = self._opened(settings, parameters, command["devices"])
        for device in opened.devices:
            device.prepare_for_cache(is_f16=settings.cache_type_k == settings.cache_type_v == "f16")
        context = lib.llama_init_from_model(opened.model, parameters.context)
        if not context:
            raise Unsupported(self._reason("context"), "Change one of the settings it names.")
        try:
            shares = read_breakdown(context)
            if shares is None:
                raise Unsupported("this build of llama.cpp does not tell its memory by device", "")
            return {
                "shares": [asdict(share) for share in shares],
                "output_bytes": self._output_bytes,
                "context": int(lib.llama_n_ctx(context)),
            }
        finally:
            lib.llama_free(context)

    def _header(self, file: Path) -> Header:
        if file not in self._headers:
            self._headers[file] = read_header(file)
        return self._headers[file]

    def _opened(self, settings: LoadSettings, made: LlamaParameters, devices: list[dict[str, Any]] | None) -> _Opened:
        shaping = [str(getattr(settings, name)) for name in _SHAPING]
        key = json.dumps([shaping, made.model.use_extra_bufts, devices])
        if key in self._models:
            self._models.move_to_end(key)
            return self._models[key]
        parameters = made.model
        parameters.no_alloc, parameters.load_mode = True, lib.LLAMA_LOAD_MODE_NONE  # with mmap it aborts
        if devices and not interface_is_known():
            raise Unsupported("this build of llama.cpp cannot be shown a card that is not there", "")
        pretended = [PretendedDevice(**device) for device in devices or ()]
        addresses = (ctypes.c_void_p * (len(pretended) + 1))(*(device.address for device in pretended), None)
        if devices is not None:
            parameters.devices = ctypes.addressof(addresses)
        model = lib.llama_model_load_from_file(os.fsencode(settings.model), parameters)
        if not model:
            raise Unsupported(self._reason("model"), "A new architecture needs a newer llama.cpp.")
        self._models[key] = _Opened(model, pretended, [*made.kept, addresses])
        while len(self._models) > MOST_MODELS:
            lib.llama_model_free(self._models.popitem(last=False)[1].model)
        return self._models[key]

    def _reason(self, what: str) -> str:
        reasons = [line.partition(": ")[2].rpartition("error loading model: ")[2] or line for line in self._errors]
        return f"llama.cpp refuses this {what}: " + (reasons[0] if reasons else "it does not say why")


def main() -> None:
    """Serve the parent until it closes the pipe; whatever the libraries print goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    planner = Planner()
    for line in sys.stdin.buffer:
        try:
            answer = protocol.to_line(planner.answer(json.loads(line)))
        except LocalknobsError as error:
            answer = protocol.error_line(error)
        os.write(out, answer)
    os._exit(0)  # without C++ destructors, which can hang on a busy device


if __name__ == "__main__":
    main()
