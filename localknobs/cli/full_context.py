"""The one question of a chat whose context is full: what shall go?"""

from __future__ import annotations

import sys

from localknobs.cli.output import facts, wrapped
from localknobs.engine.client import Engine
from localknobs.errors import LocalknobsError
from localknobs.knobs.overflow import DROPS


class FullContext:
    """Asks once in a chat what happens when the context is full; a setting (--context-full) is the answer already."""

    def __init__(self) -> None:
        self._asked = False

    def settled(self, engine: Engine) -> bool:
        """Ask, unless that was done; return whether the user has chosen to go on, and the engine knows how."""
        if self._asked or engine.settings.context_full != "stop" or not sys.stdin.isatty():
            return False
        self._asked = True
        print(wrapped(f"The context of {engine.info.context_size:,} tokens is full. What shall go, from now on?"))
        print(facts((f"  {number} {name}", text) for number, (name, text) in enumerate(DROPS, 1)))
        try:
            reply = input(f"1 to {len(DROPS)}, or Enter to stop here: ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            print()
            return False
        names = [name for name, _ in DROPS]
        chosen = reply if reply in names else dict(zip("1234", names, strict=True)).get(reply, "")
        if not chosen:
            print(wrapped("Nothing is dropped. /set context_full turns changes that."))
            return False
        try:
            engine.use_settings({"context_full": chosen})
        except LocalknobsError as error:
            print(wrapped(str(error)), file=sys.stderr)
            return False
        print(wrapped(f"context_full = {chosen}; /set context_full stop takes it back."))
        return True
