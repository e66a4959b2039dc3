"""Rotary positions: what a configuration says about them, in whichever of its dialects, and what GGUF calls it.

A configuration gives the base frequency and the scaling as `rope_theta` with `rope_scaling` (older files) or
together in `rope_parameters` (newer ones), there once for all layers or once a kind of layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from localknobs.convert.metadata import Sheet
from localknobs.errors import BadFile, Unsupported

Floats = npt.NDArray[np.float32]

FULL, SLIDING = "full_attention", "sliding_attention"
_NEEDS_LENGTH = ("yarn", "longrope", "su", "llama3")
_PLAIN = ("", "default", "dynamic", "llama3", "linear", "yarn", "longrope", "su")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions of the layers that see everything, and those of the sliding ones where they differ.

    Args:
        full: Parameters of the layers that see everything: `rope_theta`, `rope_type`, `factor` and so on.
        sliding: Those of the sliding layers; empty when all layers are alike.
    """

    full: Mapping[str, Any]
    sliding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The scaling: `default`, `linear`, `dynamic`, `yarn`, `llama3`, `longrope` (also `su`)."""
        return str(self.full.get("rope_type") or "default").lower()


def rope_of(config: Mapping[str, Any], theta: float | None, local_theta: float | None = None) -> Rope:
    """Return the rotary positions of a configuration.

    Args:
        config: `config.json`, defaults filled in.
        theta: The family's base frequency where the file gives none.
        local_theta: The same for sliding layers, in families that have two.

    Raises:
        BadFile: a scaling lacks its factor.
        Unsupported: a scaling has a name that nobody here knows.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = FULL in given or SLIDING in given
    full = dict(given.get(FULL) or {}) if nested else dict(given)
    sliding = dict(given.get(SLIDING) or {}) if nested else {}
    theta = config.get("rope_theta") or theta
    local = config.get("rope_local_base_freq") or local_theta
    if full.get("rope_theta") is None and theta is not None:
        full["rope_theta"] = theta
    if local is not None and sliding.get("rope_theta") is None:
        sliding["rope_theta"] = local
    full["rope_type"] = kind = str(full.get("rope_type") or full.get("type") or "default")
    for key in ("partial_rotary_factor", "original_max_position_embeddings"):
        if full.get(key) is None and config.get(key) is not None:
            full[key] = config[key]
    if full.get("original_max_position_embeddings") is None and kind.lower() in _NEEDS_LENGTH:
        full["original_max_position_embeddings"] = config.get("max_position_embeddings")
    if kind.lower() not in _PLAIN:
        raise Unsupported(
            f"The rotary positions are scaled by {kind!r}, which llama.cpp has no form for",
            "Remove it from config.json (rope_scaling) to convert the model without.",
        )
    has_lists = bool(full.get("long_factor"))  # as early Phi-3 files have for what they call yarn
    if kind.lower() in ("linear", "yarn", "llama3") and full.get("factor") is None and not has_lists:
        raise BadFile(f"config.json scales the rotary positions by {kind!r} without a factor", "Fetch it again.")
    return Rope(full, sliding)


def add_rope(sheet: Sheet, rope: Rope) -> None:
    """Set scaling and base frequency; factors that are tensors are not set here (`llama3_factors`, `longrope`)."""
    full = rope.full
    if rope.kind in ("linear", "yarn"):
        sheet.text("{arch}.rope.scaling.type", rope.kind)
        sheet.f32("{arch}.rope.scaling.factor", full["factor"])
    if rope.kind == "yarn":
        sheet.u32("{arch}.rope.scaling.original_context_length", full["original_max_position_embeddings"])
        for key, names in (
            ("yarn_ext_factor", ("extrapolation_factor",)),
            ("yarn_attn_factor", ("attention_factor", "attn_factor")),
            ("yarn_beta_fast", ("beta_fast",)),
            ("yarn_beta_slow", ("beta_slow",)),
        ):
            value = next((full[name] for name in names if name in full), None)
            if value is not None:
                sheet.f32(f"{{arch}}.rope.scaling.{key}", value)
    if rope.kind in ("longrope", "su"):
        sheet.text("{arch}.rope.scaling.type", "longrope")
    if full.get("rope_theta") is not None:
        sheet.f32("{arch}.rope.freq_base", full["rope_theta"])
    if rope.sliding.get("rope_theta") is not None:
        sheet.f32("{arch}.rope.freq_base_swa", rope.sliding["rope_theta"])


def llama3_factors(rope: Rope, dimensions: int) -> Floats | None:
    """Return by what each frequency is divided in Llama 3's scaling, None for any other scaling.

    Frequencies that turn often within the trained length stay, those that turn rarely are divided by the
    factor, and between them it goes over smoothly.

    Shapes:
        result: (dimensions / 2,).

    Source:
        transformers, modeling_rope_utils.py: _compute_llama3_parameters.
    """
    if rope.kind != "llama3":
        return None
    given = rope.full
    factor, trained = float(given.get("factor", 8.0)), float(given.get("original_max_position_embeddings") or 8192)
    low, high = float(given.get("low_freq_factor", 1.0)), float(given.get("high_freq_factor", 4.0))
    exponents = np.arange(0, dimensions, 2, dtype=np.float32) / np.float32(dimensions)
    powers = (np.float64(given.get("rope_theta", 10000.0)) ** exponents.astype(np.float64)).astype(np.float32)
    # Tokens of one full turn; in the steps that torch takes, so that llama.cpp's converter rounds alike.
    turn = np.float32(1.0) / (np.float32(1.0) / powers) * np.float32(2 * math.pi)
    smooth = (np.float32(trained) / turn - np.float32(low)) / np.float32(high - low)
    between = np.float32(1.0) / ((np.float32(1.0) - smooth) / np.float32(factor) + smooth)
    factors = np.where(turn > trained / low, np.float32(factor), between)
    return np.where(turn < trained / high, np.float32(1.0), factors).astype(np.float32)


@dataclass(frozen=True, slots=True)
class LongRope:
    """Two sets of factors, for texts beyond the trained length and within it, and what attention is scaled by."""

    long: Floats
    short: Floats
    attention: float


def longrope(rope: Rope, context: int, dimensions: int) -> LongRope | None:
    """Return the factors of LongRoPE, None where the configuration has none.

    Raises:
        BadFile: they are not one for each pair of dimensions.
    """
    long, short = rope.full.get("long_factor"), rope.full.get("short_factor")
    if not long:
        return None
    if not short or len(long) != len(short) or len(long) != dimensions // 2:
        raise BadFile(
            f"config.json has {len(long)} long and {len(short or ())} short rotary factors where "
            f"{dimensions // 2} of each are needed",
            "Fetch it again.",
        )
    trained = rope.full["original_max_position_embeddings"]
    stretch = context / trained
    attention = 1.0
    if stretch > 1.0:
        if rope.kind == "yarn":
            attention = 0.1 * math.log(stretch) + 1.0
        else:
            attention = math.sqrt(1 + math.log(stretch) / math.log(trained))
    return LongRope(np.array(long, np.float32), np.array(short, np.float32), attention)
