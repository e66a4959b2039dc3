"""llama.cpp's own quantization, in a process of its own: what ours is compared with. Run as a script by `reference`."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def reference(source: Path, folder: Path, runs: list[dict[str, Any]]) -> dict[str, str]:
    """Quantize with llama.cpp; return the reason of each run that it refused.

    Args:
        source: A GGUF file.
        folder: Where the results go.
        runs: Each with `name` of the result and `file_type` as a number; further `imatrix` (tensor to list of numbers),
            `keys` (text or number by key), `tensor_types`, `output_type`, `embedding_type`, `pure`, `allow_requantize`.
    """
    asked = json.dumps({"source": str(source), "folder": str(folder), "runs": runs})
    done = subprocess.run([sys.executable, __file__], input=asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    import llama_cpp as lib

    log: list[str] = []

    @lib.llama_log_callback
    def keep(level, text, user):
        log.append(text.decode("utf-8", "replace"))

    lib.llama_log_set(keep, ctypes.c_void_p(0))
    asked, refused = json.load(sys.stdin), {}
    for run in asked["runs"]:
        params = lib.llama_model_quantize_default_params()
        params.ftype, params.nthread = run["file_type"], 1
        params.pure, params.allow_requantize = run.get("pure", False), run.get("allow_requantize", False)
        params.output_tensor_type = run.get("output_type", params.output_tensor_type)
        params.token_embedding_type = run.get("embedding_type", params.token_embedding_type)
        types = run.get("tensor_types", [])
        overrides = (lib.llama_model_tensor_override * (len(types) + 1))()
        for at, (pattern, number) in enumerate(types):
            overrides[at].pattern, overrides[at].type = pattern.encode(), number
        if types:
            params.tt_overrides = overrides
        imatrix = run.get("imatrix", {})
        entries = (lib.llama_model_imatrix_data * (len(imatrix) + 1))()
        for at, (name, values) in enumerate(imatrix.items()):
            entries[at].name, entries[at].size = name.encode(), len(values)
            entries[at].data = (ctypes.c_float * len(values))(*values)
        if imatrix:
            params.imatrix = entries
        keys = (lib.llama_model_kv_override * (len(run.get("keys", {})) + 1))()
        for at, (key, value) in enumerate(run.get("keys", {}).items()):
            keys[at].key = key.encode()
            if isinstance(value, str):
                keys[at].tag, keys[at].value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
            else:
                keys[at].tag, keys[at].value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
        if run.get("keys"):
            params.kv_overrides = keys
        log.clear()
        target = Path(asked["folder"]) / run["name"]
        if lib.llama_model_quantize(asked["source"].encode(), str(target).encode(), ctypes.byref(params)):
            refused[run["name"]] = "".join(log)[-300:]
    print(json.dumps(refused))


if __name__ == "__main__":
    main()
