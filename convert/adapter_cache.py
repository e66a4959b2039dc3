"""Adapters of peft used as they are: their GGUF form is made once, into the cache, and found there the next time."""

from __future__ import annotations

import hashlib
from pathlib import Path

from localknobs.convert.adapter import open_adapter
from localknobs.convert.lora_to_gguf import LoraConfig, convert_lora, plan_lora
from localknobs.engine.adapter_files import path_and_scale, text_of
from localknobs.errors import NotFound
from localknobs.jobs import drain
from localknobs.ledger import fingerprint
from localknobs.library import find_checkpoint
from localknobs.paths import cache_folder, user_path


def as_gguf(text: str) -> str:
    """Return `FILE[:SCALE]` with a folder of peft without a GGUF form made into one; all else stays as it is.

    Raises:
        NotFound: its base, whose configuration is needed, is not on this machine.
        BadFile, Unsupported: it is damaged, or no GGUF adapter can hold it.
    """
    name, scale = path_and_scale(text)
    folder = user_path(name)
    if not (folder / "adapter_config.json").is_file() or any(folder.glob("*.gguf")):
        return text
    mark = hashlib.sha256(f"{folder.resolve()} {fingerprint(folder)}".encode("utf-8", "replace")).hexdigest()
    output = cache_folder() / "adapters" / mark[:16] / f"{folder.resolve().name}.gguf"  # its name is shown
    if not output.is_file():
        plan = plan_lora(LoraConfig(folder, _base_of(folder), output))
        output.parent.mkdir(parents=True, exist_ok=True)
        drain(convert_lora(plan))
    return text_of(str(output), scale)


def _base_of(folder: Path) -> Path | None:
    """Return the folder of the base that an adapter names, None to let the conversion look itself."""
    adapter = open_adapter(folder)
    adapter.weights.close()
    if not adapter.base_name:
        return None
    if base := find_checkpoint(adapter.base_name):
        return base
    raise NotFound(
        f"{folder} was trained on {adapter.base_name}, which is not on this machine",
        f"localknobs pull fetches it; or make the GGUF form: localknobs convert {folder} --base FOLDER_OF_ITS_BASE",
    )
