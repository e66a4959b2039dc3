"""The slash commands for adapters and control vectors: list, add, scale, remove, and the base alone for a while."""

from __future__ import annotations

import math
from collections.abc import Callable

from localknobs.cli.output import facts, note
from localknobs.engine.adapter_files import AdapterKind
from localknobs.engine.adapter_rack import AdapterRack
from localknobs.engine.client import Engine
from localknobs.errors import BadValue
from localknobs.terminal_text import printable

USAGE = "add FILE[:SCALE] | scale N S | remove N | off | on"


class AdapterCommands:
    """What stands behind `/lora` and `/control-vector`.

    Args:
        engine: The loaded model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rack = AdapterRack.of(engine.settings.adapters())
        self._verbs: dict[str, Callable[[AdapterKind, str], AdapterRack]] = {
            "add": self._added,
            "scale": lambda _, text: self._scaled(text),
            "remove": lambda _, text: self.rack.removed(_number(text)),
            "off": lambda _, text: AdapterRack(self.rack.rows, without=True),
            "on": lambda _, text: AdapterRack(self.rack.rows),
        }

    @property
    def rack(self) -> AdapterRack:
        """What acts beside the model now."""
        self._rack = self._rack.followed(self._engine.settings.adapters())
        return self._rack

    def do(self, kind: AdapterKind, text: str) -> None:
        """Do what stands behind the command's name, or list.

        Raises:
            LocalknobsError: it cannot be done; nothing changed.
        """
        verb, _, rest = text.partition(" ")
        if verb and verb not in self._verbs:
            raise BadValue(f"It cannot be {verb!r}", f"After it comes: {USAGE}")
        if verb:
            rack = self._verbs[verb](kind, rest.strip())
            notes = self._engine.use_settings(rack.values())
            self._rack = rack
            for one in notes:
                note(one)
        self._list(changed=bool(verb))

    def _added(self, kind: AdapterKind, text: str) -> AdapterRack:
        from localknobs.convert.adapter_cache import as_gguf  # numpy, and only for this

        return self.rack.added(kind, as_gguf(text))

    def _scaled(self, text: str) -> AdapterRack:
        number, _, scale = text.partition(" ")
        try:
            factor = float(scale)
        except ValueError:
            factor = math.nan
        if not math.isfinite(factor):
            raise BadValue(f"A scale cannot be {scale.strip() or 'nothing'}", "For example: /lora scale 1 0.5")
        return self.rack.scaled(_number(number), factor)

    def _list(self, *, changed: bool) -> None:
        rack = self.rack
        if not rack.rows:
            print("no adapters: the base answers. /lora add FILE puts one on")
            return
        print(
            facts(
                (
                    str(at),
                    printable(
                        f"scale {row.scale:g} · {row.name}" + ("" if row.kind == "adapter" else f" ({row.kind})")
                    ),
                )
                for at, row in enumerate(rack.rows, 1)
            )
        )
        if rack.without:
            print("off: the base answers; /lora on brings them back")
        elif changed:
            print("from the next answer on")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadValue(f"There is no adapter {text or '(no number)'}", "Name it by its number; /lora lists them.")
    return int(text)
