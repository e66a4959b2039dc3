"""The sampling values in use: which preset they came from, and what was turned since."""

from __future__ import annotations

from collections.abc import Mapping

from localknobs.knobs import Value, check_value, defaults
from localknobs.presets import Preset, preset, presets, save_preset


class SamplerState:
    """Values for every sampling knob, begun from a preset.

    Args:
        recommended: The model's own values, may be empty.
        name: Preset to begin with; None takes the model's own where it has one, else llama.cpp's defaults.

    Attributes:
        values: Knob name to value, complete.
    """

    def __init__(self, recommended: Mapping[str, Value] | None = None, name: str | None = None) -> None:
        self.recommended: Mapping[str, Value] = recommended or {}
        self.preset: Preset = preset(name or ("model" if self.recommended else "default"), self.recommended)
        self.values: dict[str, Value] = {**defaults("sampling"), **self.preset.values}
        # Whether the user chose these values. `model` is no choice of values: it follows the model.
        self._chosen = name not in (None, "model")

    @property
    def standard(self) -> dict[str, Value]:
        """What each knob goes back to on a reset: the preset's value, or the default of what no preset holds."""
        return {**defaults("sampling"), **self.preset.values}

    @property
    def changed(self) -> bool:
        """Whether a knob that belongs to the preset was turned since it was chosen."""
        return any(self.values[name] != value for name, value in self.preset.values.items())

    def set(self, name: str, value: object) -> Value:
        """Turn one knob; raises `BadValue` or `NotFound`."""
        self.values[name] = check_value(name, value)
        self._chosen = self._chosen or name in self.preset.values
        return self.values[name]

    def use(self, name: str) -> dict[str, Value]:
        """Take a preset, and return the values that differ now; knobs of one run (seed, limits, grammar) stay."""
        self.preset = preset(name, self.recommended)
        self._chosen = name != "model"
        changes = {key: value for key, value in self.preset.values.items() if self.values[key] != value}
        self.values.update(changes)
        return changes

    def moved_stage(self, name: str, direction: int) -> tuple[str, ...]:
        """Return the order of the chain with one sampler earlier (-1) or later (1); as it is when that cannot be."""
        order = [str(one) for one in self.values["samplers"]]  # type: ignore[union-attr]
        if name in order:
            at = order.index(name)
            order.insert(max(0, at + direction), order.pop(at))
        return tuple(order)

    def neighbour(self, direction: int) -> str:
        """Return the name of the next (1) or previous (-1) preset, going round."""
        names = list(presets(self.recommended))
        at = names.index(self.preset.name) if self.preset.name in names else 0
        return names[(at + direction) % len(names)]

    def save(self, name: str) -> None:
        """Save the values as a preset of the user's and go on from it; raises `BadValue`."""
        save_preset(name, self.values)
        self.preset = preset(name, self.recommended)
        self._chosen = True

    def with_model(self, recommended: Mapping[str, Value]) -> None:
        """Go on with another model, or the same one anew; its own values are used if the user chose none."""
        self.recommended = recommended
        own = "model" if recommended else "default"
        if not self._chosen:
            self.use(own)
            self._chosen = False
        elif self.preset.name == "model":
            self.preset = preset(own, recommended)  # what was turned stays; a reset goes to this model's values
