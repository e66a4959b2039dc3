"""Helpers for tests of conversions: convert, compute with llama.cpp, and a checkpoint to break."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.to_gguf import ConvertConfig, convert
from localknobs.jobs import drain

TOKENS = [int(token) for token in np.random.default_rng(1).integers(5, 370, 24)]
"""A text, as tokens that all tiny tokenizers have."""


def convert_to(output: Path, source: Path, **options: Any) -> Path:
    """Convert, by default to F32 and without comparing tokens."""
    return drain(convert(ConvertConfig(source, output, **{"outtype": "f32", "check_tokens": False, **options})))


def llama_logits(model: Path, tokens: list[int], out: Path) -> Any:
    """Return llama.cpp's logits, computed in a process of their own."""
    script = Path(__file__).with_name("llama_logits.py")
    subprocess.run([sys.executable, str(script), str(model), json.dumps(tokens), str(out)], check=True)
    return np.load(out)


def copy_of(checkpoint: Path, folder: Path, **config: Any) -> Path:
    """Return a copy of a checkpoint, with changes in its configuration; None removes a key."""
    shutil.copytree(checkpoint, folder)
    change_json(folder / "config.json", **config)
    return folder


def change_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON object in a file; None removes one."""
    data = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def change_tensors(folder: Path, change: Any) -> None:
    """Write a checkpoint's only file of weights again, as `change` returns its tensors."""
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file)
