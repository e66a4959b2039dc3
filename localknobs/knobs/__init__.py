"""Knobs: one row of data each, read by the flag, the slider, the check, the docs, the presets and the engine.

The record and the look-ups are here, the rows in a file for each subject, the five lever cards in
`levers.py`, what a knob's card says in `boxes.py`. Standard library only; nothing here knows llama.cpp or a screen.
"""

from __future__ import annotations

from localknobs.knobs.boxes import knob_boxes
from localknobs.knobs.levers import LEVERS, LeverCard
from localknobs.knobs.loading import BENCHED
from localknobs.knobs.record import Applies, Kind, Knob, Lever, Value, Values
from localknobs.knobs.table import (
    ALL_KNOBS,
    KNOBS,
    check_value,
    check_values,
    defaults,
    flag_words,
    knob,
    knobs_of,
    parse_value,
)

__all__ = [
    "ALL_KNOBS",
    "BENCHED",
    "KNOBS",
    "LEVERS",
    "Applies",
    "Kind",
    "Knob",
    "Lever",
    "LeverCard",
    "Value",
    "Values",
    "check_value",
    "check_values",
    "defaults",
    "flag_words",
    "knob",
    "knob_boxes",
    "knobs_of",
    "parse_value",
]
