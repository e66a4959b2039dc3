"""What a checkpoint says of itself: its config, and the first bytes of its safetensors files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from localknobs.library.summaries import Summaries, Summary

_LARGEST_CONFIG, _LARGEST_HEADER = 2**22, 32 * 2**20
_MOST_TENSORS = 262_144


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a checkpoint."""
    try:
        return tuple(sorted(file for file in folder.glob("*.safetensors") if file.is_file()))
    except OSError:
        return ()


def summarize_checkpoint(folder: Path, kind: str, summaries: Summaries) -> Summary:
    """Return what a checkpoint, or an adapter of peft, is."""
    config = _config(folder / ("adapter_config.json" if kind == "adapter" else "config.json"))
    inner = config.get("text_config")
    text = {**config, **inner} if isinstance(inner, dict) else config
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type", "")
    context = text.get("max_position_embeddings")
    weights = [summaries.of(file, _read_weights) for file in weight_files(folder)]
    trouble = next((each.trouble for each in weights if each.trouble), "")
    return Summary(
        kind=kind,
        architecture=named if isinstance(named, str) else "",
        quant=next((each.quant for each in weights if each.quant), ""),
        context=context if isinstance(context, int) and context > 0 else 0,
        parameters=sum(each.parameters for each in weights),
        damaged=bool(trouble),
        trouble=trouble,
    )


def _config(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as data:
            config = json.loads(data.read(_LARGEST_CONFIG))
        return config if isinstance(config, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _read_weights(path: Path, status: os.stat_result) -> Summary:
    """Read the header of a safetensors file: its length in 8 bytes, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(status.st_size - 8, _LARGEST_HEADER):
            return Summary(damaged=True, trouble=f"{path} is damaged or cut short. Download it again.")
        try:
            document = json.loads(file.read(length))
            tensors = [facts for name, facts in document.items() if name != "__metadata__"][:_MOST_TENSORS]
            values: Counter[str] = Counter()
            end = 0
            for facts in tensors:
                count = 1
                for size in facts["shape"]:
                    count *= int(size)
                values[str(facts["dtype"])] += count
                end = max(end, int(facts["data_offsets"][1]))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return Summary(damaged=True, trouble=f"{path} is damaged: its header cannot be read. Download it again.")
    if 8 + length + end > status.st_size:
        return Summary(damaged=True, trouble=f"{path} is cut short. The download is not complete.")
    return Summary("checkpoint", quant=values.most_common(1)[0][0] if values else "", parameters=sum(values.values()))
