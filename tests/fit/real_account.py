"""A process that really loads models and gives llama.cpp's own account of what it allocated: one JSON line a case.

Standard input: one JSON object of LoadSettings fields a line.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from pathlib import Path
from typing import Any

import llama_cpp as lib

from localknobs.engine.accounting import read_breakdown
from localknobs.engine.parameters import llama_parameters
from localknobs.engine.settings import LoadSettings
from localknobs.gguf_info import read_header

output = [0.0]


@lib.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
def write(level: int, text: bytes, user_data: Any) -> None:
    if found := re.search(rb"output buffer size =\s*([\d.]+)", text):
        output[0] = float(found[1]) * 2**20
    if level == 4:
        sys.stderr.write(text.decode())


def main() -> None:
    lib.llama_log_set(write, ctypes.c_void_p(0))
    lib.llama_backend_init()
    for line in sys.stdin:
        fields = json.loads(line)
        settings = LoadSettings(**{**fields, "model": Path(fields["model"])})
        made = llama_parameters(settings, read_header(settings.model), settings.n_ctx)
        model = lib.llama_model_load_from_file(str(settings.model).encode(), made.model)
        context = lib.llama_init_from_model(model, made.context)
        shares = read_breakdown(context)
        assert shares
        amounts = {name: sum(getattr(share, name) for share in shares) for name in ("weights", "cache", "compute")}
        amounts["compute"] += round(output[0])
        print(json.dumps(amounts), flush=True)
        lib.llama_free(context)
        lib.llama_model_free(model)


if __name__ == "__main__":
    main()
