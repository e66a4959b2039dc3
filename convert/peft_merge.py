"""Merging by peft itself, for the kinds of adapters whose arithmetic is not known here; in a process of its own.

The whole model is in that process's memory, in float32, and is gone with it. The process reads files only.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from localknobs.errors import BadFile, MissingExtra
from localknobs.jobs import Advanced, Job

_POLL_S = 0.2


def check_peft() -> None:
    """Raise `MissingExtra` when peft and what it needs are not installed."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"This adapter can only be merged by peft itself, and {', '.join(missing)} is not installed",
            "Install the extra: pip install 'localknobs[train]'",
        )


def merge_with_peft(base: Path, adapters: Sequence[Path], output: Path) -> Job[Path]:
    """Merge adapters one after another and save the model, in float32, into a folder; return the folder.

    Closing the job ends the process.

    Raises:
        BadFile: peft could not; with its reason.
    """
    command = [sys.executable, "-m", "localknobs.convert.peft_merge", *map(str, (base, output, *adapters))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment)
        try:
            while process.poll() is None:
                try:
                    process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    yield Advanced(0)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            said.seek(0)
            lines = [line for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else f"its process ended with {process.returncode}"
            raise BadFile(
                f"peft could not merge {', '.join(map(str, adapters))}: {reason}", "The adapter may be of another base."
            )
    return output


def _merge(base: str, output: str, adapters: Sequence[str]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, trust_remote_code=False, local_files_only=True
    )
    for adapter in adapters:
        adapted = PeftModel.from_pretrained(model, adapter)
        if not hasattr(adapted, "merge_and_unload") and not hasattr(adapted.base_model, "merge_and_unload"):
            raise SystemExit(f"{adapter} is of a kind that cannot be merged")
        model = adapted.merge_and_unload()
    model.save_pretrained(output)


if __name__ == "__main__":
    _merge(sys.argv[1], sys.argv[2], sys.argv[3:])
