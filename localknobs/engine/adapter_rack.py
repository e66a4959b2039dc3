"""The adapters and control vectors of a chat as a person handles them: a numbered list with a scale each.

A rack is plain data; what it says becomes true by `Engine.use_settings(rack.values())`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localknobs.engine.adapter_files import KNOB_OF, AdapterKind, path_and_scale, text_of
from localknobs.errors import BadValue
from localknobs.knobs import Value, Values


@dataclass(frozen=True, slots=True)
class RackRow:
    """One adapter or control vector.

    Args:
        kind: Which of the two.
        name: As the user named it: a file, a folder, a name of the library.
        scale: How strongly it acts; 1 is as it was trained.
    """

    kind: AdapterKind
    name: str
    scale: float = 1.0

    @property
    def title(self) -> str:
        """Its name without folders and ending."""
        return Path(self.name).name.removesuffix(".gguf") or self.name


def short_names(texts: Sequence[str]) -> str:
    """Return `FILE:SCALE` texts as a line of a message says them: `mine 0.8, calm -0.5`."""
    parts = [text.rpartition(":") for text in texts]
    return ", ".join(
        f"{Path(name or scale).name.removesuffix('.gguf')}{f' {scale}' if name else ''}" for name, _, scale in parts
    )


@dataclass(frozen=True, slots=True)
class AdapterRack:
    """What acts beside the model.

    Args:
        rows: In the order in which they were added.
        without: All of them rest at scale 0 for a while, to hear the base.
    """

    rows: tuple[RackRow, ...] = ()
    without: bool = False

    @classmethod
    def of(cls, values: Values) -> AdapterRack:
        """Return what values of knobs name, those of `LoadSettings.adapters()` or of the whole table."""
        named = [(kind, str(text)) for kind, knob in KNOB_OF.items() for text in values[knob]]  # type: ignore[union-attr]
        return cls(tuple(RackRow(kind, *path_and_scale(text)) for kind, text in named))

    def values(self) -> dict[str, Value]:
        """Return the knobs' values."""
        return {
            knob: tuple(
                text_of(row.name, 0.0 if self.without else row.scale) for row in self.rows if row.kind == kind
            )
            for kind, knob in KNOB_OF.items()
        }  # fmt: skip

    def followed(self, values: Values) -> AdapterRack:
        """Return this rack where values of knobs say the same, else what they say."""
        other = AdapterRack.of(values)
        return self if other.values() == self.values() else other

    def acting(self) -> tuple[str, ...]:
        """Return what changes the next answer, as `FILE:SCALE`."""
        return () if self.without else tuple(text_of(row.name, row.scale) for row in self.rows if row.scale)

    def added(self, kind: AdapterKind, text: str) -> AdapterRack:
        """Return the rack with another one, given as `FILE` or `FILE:SCALE`; heard at once."""
        row = RackRow(kind, *path_and_scale(text))
        if any((one.kind, one.name) == (kind, row.name) for one in self.rows):
            raise BadValue(f"{row.name} is on already", "Change its scale instead.")
        return AdapterRack((*self.rows, row))

    def scaled(self, number: int, scale: float) -> AdapterRack:
        """Return the rack with another scale of one, counted from 1; raises `BadValue`."""
        self._check(number)
        row = replace(self.rows[number - 1], scale=scale)
        return AdapterRack((*self.rows[: number - 1], row, *self.rows[number:]))

    def removed(self, number: int) -> AdapterRack:
        """Return the rack without one, counted from 1; raises `BadValue`."""
        self._check(number)
        return replace(self, rows=(*self.rows[: number - 1], *self.rows[number:]))

    def _check(self, number: int) -> None:
        if not 1 <= number <= len(self.rows):
            there = f"There are 1 to {len(self.rows)}." if self.rows else "There is none yet."
            raise BadValue(f"There is no adapter {number}", there)
