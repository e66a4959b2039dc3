"""What a probe is given, and what it finds."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from localknobs.knobs import Value, flag_words

Verdict = Literal["confirmed", "rejected", "open"]
"""`open`: the probe cannot tell; the finding says what it would need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is complained about.

    Args:
        model: A GGUF file.
        name: What the user calls it, for commands.
        prompt: A prompt with which it shows; empty for none.
        values: Complete sampling values, as the user has them.
        loading: Loading knobs that differ from their defaults.
        tasks: The user's own task file (JSONL), if there is one.
        seed: Of every choice.
    """

    model: Path
    name: str
    prompt: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    loading: Mapping[str, Value] = field(default_factory=dict)
    tasks: Path | None = None
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something to do about it.

    Args:
        text: What, and what it costs.
        command: The command that does it; empty where there is none.
        values: Knobs that it turns, name to value; empty where it turns none.
    """

    text: str
    command: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found.

    Args:
        verdict: See `Verdict`.
        text: What was measured, and what follows, in a few sentences.
        numbers: What was measured, name to value.
        remedies: What to do, the first lever first.
        command: The command that measures the same again, at length.
    """

    verdict: Verdict
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    remedies: tuple[Remedy, ...] = ()
    command: str = ""


def command(*words: object) -> str:
    """Return a command of this program as it is typed."""
    return shlex.join(["localknobs", *map(str, words)])


def turned(text: str, case: Case, **values: Value) -> Remedy:
    """Return the remedy of turning knobs.

    Args:
        text: What, and what it costs.
        case: Whose model.
        values: The knobs.
    """
    return Remedy(text, command("chat", case.name, *flag_words(values)), values)
