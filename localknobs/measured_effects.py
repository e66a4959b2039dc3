"""What changes did to models on this machine: whatever measures adds to it, the cards of knobs and levers show it.

One small file beside the user's own data.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from localknobs.knobs import BENCHED, Knob, Lever, flag_words
from localknobs.measured_speeds import MeasuredSpeed, measured_speeds
from localknobs.paths import data_folder
from localknobs.remembered import keep_newest, read_records

MOST = 2000
"""Records kept; the oldest go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEffect:
    """What one change did.

    Args:
        lever: The lever that was moved.
        settings: What was turned, knob name to the value as it is typed; for a lever without knob rows, such as a
            quantized type, its own word (`type`).
        model: Name of the model it was turned on.
        against: What it was compared with, as a name: another setting, or the parent.
        text: What came of it, as a sentence without the end.
        numbers: The figures of the sentence, by name.
        command: Command line that prints them again.
        when: Time of the measurement, ISO 8601 in UTC.
    """

    lever: Lever
    settings: Mapping[str, str]
    model: str
    against: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    command: str = ""
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def turned(self) -> str:
        """What was turned, as a phrase: `type_k q4_0, type_v q4_0`."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items())


def measured_effects() -> list[MeasuredEffect]:
    """Return what was measured, the newest first; none when nothing was or the file cannot be read."""
    return read_records(_file(), _record)[::-1]


def remember_effects(records: Sequence[MeasuredEffect]) -> None:
    """Add records; one of the same change, model and comparison replaces the one before.

    Raises:
        OSError: the file cannot be written.
    """
    if records:
        keep_newest(_file(), [*reversed(measured_effects()), *records], _case, MOST)


def effects_of_knob(row: Knob) -> list[MeasuredEffect]:
    """Return what turning a knob did here: comparisons in which it was turned, then speeds that differ by it alone.

    Args:
        row: The knob.
    """
    known = [effect for effect in measured_effects() if row.name in effect.settings]
    return known + list(_speeds_by(row, measured_speeds()))


def effects_of_lever(lever: Lever) -> list[MeasuredEffect]:
    """Return what moving a lever did here, the newest first."""
    return [effect for effect in measured_effects() if effect.lever == lever]


def _speeds_by(row: Knob, records: Sequence[MeasuredSpeed]) -> Iterable[MeasuredEffect]:
    """Yield the speeds of `localknobs bench` that differ by a knob alone, each against the knob at its default.

    Where a knob is always set, such as the threads, its lowest value stands for the default.
    """
    alike: dict[tuple[Any, ...], list[MeasuredSpeed]] = {}
    for record in records:
        alike.setdefault(_others(record, row.name), []).append(record)
    for group in reversed(list(alike.values())):
        before, *turned = sorted(group, key=lambda record: _rank(record.settings.get(row.name)))
        yield from filter(None, (_speed_effect(row, before, record) for record in turned))


def _rank(value: Any) -> tuple[int, float, str]:
    """Order values: unset, then numbers, then words."""
    return (0 if value is None else 1, value if isinstance(value, int | float) else 0.0, str(value))


def _speed_effect(row: Knob, before: MeasuredSpeed, now: MeasuredSpeed) -> MeasuredEffect | None:
    parts: list[str] = []
    numbers: dict[str, float] = {}
    for verb, key in (("reads", "prompt_tokens_per_s"), ("writes", "generation_tokens_per_s")):
        then, after = getattr(before, key), getattr(now, key)
        if then and after:
            parts.append(f"{verb} {after:,.0f} tokens/s instead of {then:,.0f} ({after / then - 1:+.0%})")
            numbers |= {key: after, f"{key}_before": then}
    if not parts:
        return None
    old, value = before.settings.get(row.name, row.default), now.settings[row.name]
    words = ["localknobs", "bench", now.model, row.flags[0], f"{row.show(old)},{row.show(value)}"]
    words += flag_words({name: now.settings[name] for name in BENCHED if name in now.settings and name != row.name})
    command = shlex.join(words) if row.name in BENCHED else ""
    return MeasuredEffect(
        lever=row.lever, settings={row.name: row.show(value)}, model=Path(now.model).stem,
        against=f"{row.name} {row.show(old) or 'the default'}", text="; ".join(parts), numbers=numbers,
        command=command, when=now.when,
    )  # fmt: skip


def _others(record: MeasuredSpeed, name: str) -> tuple[Any, ...]:
    rest = json.dumps({key: value for key, value in record.settings.items() if key != name}, sort_keys=True)
    return (
        record.model, record.size_bytes, rest, record.devices, record.processor, record.prompt_tokens,
        record.generated_tokens,
    )  # fmt: skip


def _case(record: MeasuredEffect) -> tuple[str, ...]:
    return record.lever, json.dumps(dict(record.settings), sort_keys=True), record.model, record.against


def _file() -> Path:
    return data_folder() / "measured_effects.jsonl"


def _record(fields: Any) -> MeasuredEffect | None:
    record = MeasuredEffect(**fields)
    texts = (record.model, record.against, record.text, record.command, record.when)
    fine = (
        record.lever in get_args(Lever)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(value, str) for value in record.settings.values())
        and all(isinstance(number, int | float) for number in record.numbers.values())
    )
    return record if fine else None
