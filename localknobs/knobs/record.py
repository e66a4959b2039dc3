"""The knob record: what one row says, and how a value of it is parsed, checked and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from localknobs.errors import BadValue

Value = float | int | str | tuple[str, ...] | tuple[tuple[int, float], ...]
"""A knob's value: a number, a text, names in order (`samplers`), or (token id, bias) pairs (`logit_bias`)."""

Values = Mapping[str, Value]
"""Knob name to value."""

Kind = Literal["float", "int", "choice", "text", "texts", "names", "bias"]
Lever = Literal["finetune", "quantize", "context", "prune", "decode"]
Applies = Literal["next token", "next answer", "reload", "new file"]
Scale = Literal["linear", "log"]

SWITCH = ("off", "on")
"""The choices of a knob that llama.cpp spells as a flag without a value, such as `--swa-full`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One knob.

    Args:
        name: llama.cpp's own name; the key in presets, JSON and the engine.
        lever: Which of the five levers it belongs to.
        group: Heading it stands under in the panel and the docs.
        kind: How its value is entered and checked.
        default: Value when nobody chose; llama.cpp's own unless `default_reason` says why not.
        label: Short name on a slider.
        help: What it does, one sentence.
        applies: When a change takes effect.
        cost: What turning it costs, in time or memory or quality.
        source: Paper or llama.cpp file it comes from.
        flags: Command-line spellings, llama.cpp's first.
        low, high: Inclusive range of a number; None has no bound.
        step: Smallest step an arrow key makes.
        scale: How a slider spreads its range.
        unit: Unit after the number, may be empty.
        special: Values with a meaning of their own, as (value, what it means).
        off: Value at which it does nothing; None when it cannot be off.
        choices: Allowed values of a `choice`, allowed names of a `names`.
        words: What its flag takes, where that are several words; its value has them with spaces between.
        live_low, live_high: Ends of a slider when `low` and `high` are far beyond what people use.
        fails: How it fails when turned too far.
        default_reason: Why the default differs from llama.cpp's, if it does.
    """

    name: str
    lever: Lever
    group: str
    kind: Kind
    default: Value
    label: str
    help: str
    applies: Applies
    cost: str
    source: str
    flags: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float = 1.0
    scale: Scale = "linear"
    unit: str = ""
    special: tuple[tuple[float, str], ...] = ()
    off: Value | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    live_low: float | None = None
    live_high: float | None = None
    fails: str = ""
    default_reason: str = ""

    @property
    def is_number(self) -> bool:
        """Whether a slider can show it."""
        return self.kind in ("float", "int")

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value and turns it on."""
        return self.choices == SWITCH

    def range_text(self) -> str:
        """Say what is allowed, as a phrase for help and errors: `0 to 2`, `one of a, b`."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "names":
            return "names out of " + ", ".join(self.choices) + ", separated by ;"
        if self.kind == "bias":
            return "TOKEN_ID+BIAS or TOKEN_ID-BIAS, separated by commas"
        if self.kind == "texts":
            return 'text, or several as a JSON list: ["a", "b"]'
        if self.words:
            return " ".join(self.words)
        if not self.is_number:
            return "text"
        low = "" if self.low is None else self.show(self.low)
        high = "" if self.high is None else self.show(self.high)
        bounds = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
        return ", ".join([bounds, *(f"{self.show(value)} = {meaning}" for value, meaning in self.special)])

    def show(self, value: Value) -> str:
        """Write a value the way it is typed on the command line."""
        if isinstance(value, tuple):
            if self.kind == "bias":
                return ",".join(f"{token}{bias:+g}" for token, bias in value)  # type: ignore[str-unpack]
            if self.kind == "texts":
                return str(value[0]) if len(value) == 1 else json.dumps(value)
            return ";".join(str(name) for name in value)
        if isinstance(value, float):
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
        return str(value)

    def parse(self, text: str) -> Value:
        """Read a value a person typed.

        Raises:
            BadValue: it is not of this knob's kind or outside its range; the message names the range.
        """
        text = text if self.kind in ("text", "texts") else text.strip()
        try:
            if self.kind == "float":
                return self.check(float(text))
            if self.kind == "int":
                return self.check(int(text))
            if self.kind == "bias":
                return self.check(_parse_bias(text))
        except BadValue:
            raise
        except ValueError:
            raise self._bad(text) from None
        if self.kind == "texts":
            return self.check(_parse_texts(text))
        if self.kind == "names":
            return self.check(tuple(name.strip() for name in text.split(";") if name.strip()))
        if self.kind == "choice" and text.lower() in self.choices:
            return text.lower()  # `-ctk Q8_0`: quantizations are written in capitals elsewhere
        return self.check(text)

    def check(self, value: object) -> Value:
        """Return the value in this knob's own type.

        Raises:
            BadValue: wrong type or outside the range; the message names both.
        """
        if self.is_number:
            return self._check_number(value)
        if self.kind == "names":
            names = tuple(value) if isinstance(value, list | tuple) else (value,)
            if any(name not in self.choices for name in names) or len(set(names)) != len(names):
                raise self._bad(value)
            return names
        if self.kind == "texts":
            texts = tuple(value) if isinstance(value, list | tuple) else (value,)
            if not all(isinstance(text, str) and text for text in texts):
                raise self._bad(value)
            return texts
        if self.kind == "bias":
            return self._check_bias(value)
        if not isinstance(value, str) or (self.kind == "choice" and value not in self.choices):
            raise self._bad(value)
        return value

    def _check_number(self, value: object) -> Value:
        # bool is an int in Python, but `true` in a preset is a slip, not the number 1.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._bad(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._bad(value)
        if self.kind == "int" and value != int(value):
            raise self._bad(value)
        if any(value == special for special, _ in self.special):
            pass
        elif (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise self._bad(value)
        return int(value) if self.kind == "int" else float(value)

    def _check_bias(self, value: object) -> Value:
        pairs = []
        for pair in value if isinstance(value, list | tuple) else [None]:
            if not (isinstance(pair, list | tuple) and len(pair) == 2):
                raise self._bad(value)
            token, bias = pair
            # `inf` is allowed (always, never); no number at all is not. A bool is an int in Python.
            if type(token) is not int or token < 0 or type(bias) not in (int, float) or bias != bias:
                raise self._bad(value)
            pairs.append((token, float(bias)))
        return tuple(pairs)

    def _bad(self, value: object) -> BadValue:
        flag = f" ({self.flags[0]})" if self.flags else ""
        # 9 and not 9.0: what the user typed, as far as a number keeps it.
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        return BadValue(f"{self.name}{flag} cannot be {shown}", f"It takes {self.range_text()}.")


def _parse_texts(text: str) -> tuple[str, ...]:
    """Read one text, or a JSON list of texts; the empty text means none."""
    if text.startswith("["):
        try:
            return tuple(json.loads(text))
        except ValueError:
            pass  # a text may begin with a bracket
    return (text,) if text else ()


def _parse_bias(text: str) -> tuple[tuple[int, float], ...]:
    """Read `15043+1,29871-inf` (llama.cpp's --logit-bias form, several separated by commas)."""
    pairs = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        digits = len(item) - len(item.lstrip("0123456789"))
        pairs.append((int(item[:digits]), float(item[digits:])))
    return tuple(pairs)
