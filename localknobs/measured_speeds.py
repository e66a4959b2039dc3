"""Speeds measured on this machine, remembered: `localknobs bench` writes them, the estimates of `fit` read them.

One small file in the cache folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localknobs.knobs import Value
from localknobs.paths import cache_folder
from localknobs.remembered import keep_newest, read_records

MOST = 1000
"""Records kept; the oldest go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """How fast one model ran with one set of loading knobs, as llama-bench counts it.

    Args:
        model: Path of the file (of the first shard).
        size_bytes: Bytes of its tensors: what is read from memory for every token of a dense model.
        architecture: Such as `llama`.
        quant: Such as `Q4_K_M`.
        parameters: Their number.
        settings: Loading knobs, name to value, `threads` as used; a knob not named had its default.
        devices: Names of the devices that held layers, such as `CPU` or `CUDA0`.
        processor: Its name, since a home may be shared by several machines.
        prompt_tokens: Tokens of the prompt that was read (pp of llama-bench), from an empty cache; 0 when not measured.
        prompt_tokens_per_s: Median speed of that.
        generated_tokens: Tokens that were generated one by one (tg), from an empty cache; 0 when not measured.
        generation_tokens_per_s: Median speed of that.
        when: Time of the measurement, ISO 8601 in UTC.
    """

    model: str
    size_bytes: int
    architecture: str
    quant: str
    parameters: int
    settings: Mapping[str, Value] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    processor: str = ""
    prompt_tokens: int = 0
    prompt_tokens_per_s: float = 0.0
    generated_tokens: int = 0
    generation_tokens_per_s: float = 0.0
    when: str = ""

    @property
    def bytes_per_s(self) -> float:
        """Weights read from memory in a second while generating: what carries over to other models here."""
        return self.size_bytes * self.generation_tokens_per_s


def measured_speeds() -> list[MeasuredSpeed]:
    """Return what was measured, the oldest first; none when nothing was or the file cannot be read."""
    return read_records(_file(), _record)


def remember_speeds(records: Sequence[MeasuredSpeed]) -> None:
    """Add records; one of the same model, settings and machine replaces the one before.

    Raises:
        OSError: the file cannot be written.
    """
    keep_newest(_file(), [*measured_speeds(), *records], _case, MOST)


def _case(record: MeasuredSpeed) -> tuple[Any, ...]:
    settings = json.dumps(dict(record.settings), sort_keys=True)
    return record.model, record.size_bytes, settings, record.devices, record.processor


def _file() -> Path:
    return cache_folder() / "measured_speeds.jsonl"


def _record(fields: Any) -> MeasuredSpeed | None:
    fields["devices"] = tuple(fields["devices"])
    record = MeasuredSpeed(**fields)
    numbers = (
        record.size_bytes, record.parameters, record.prompt_tokens, record.prompt_tokens_per_s,
        record.generated_tokens, record.generation_tokens_per_s,
    )  # fmt: skip
    texts = (record.model, record.architecture, record.quant, record.processor, record.when, *record.devices)
    fine = (
        all(isinstance(number, int | float) and number >= 0 for number in numbers)
        and all(isinstance(text, str) for text in texts)
        and isinstance(record.settings, Mapping)
    )
    return record if fine else None
