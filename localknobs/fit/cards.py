"""Cards that can be asked for by name: a table shipped as data, and sizes as people type them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from localknobs.errors import BadValue, NotFound

GIB = 2**30
_UNITS = {"": 30, "k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card.

    Args:
        name: Maker's name of it.
        vendor: `nvidia`, `amd`, `intel`, `apple`; empty when unknown.
        total_bytes: Its memory.
        free_bytes: What of it is free.
        bandwidth: Bytes a second it can read from its memory; 0 when unknown.
        unified: Whether that is the machine's main memory.
    """

    name: str
    vendor: str
    total_bytes: int
    free_bytes: int
    bandwidth: float = 0.0
    unified: bool = False

    @property
    def title(self) -> str:
        """Name and memory, as a person would ask for it."""
        return f"{self.name} {round(self.total_bytes / GIB, 1):g}GB"


@cache
def known_cards() -> tuple[Card, ...]:
    """Return the cards of the table; source and date stand at its head."""
    text = files("localknobs").joinpath("data/cards.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        Card(
            row["name"], row["vendor"], int(row["memory_gb"]) * GIB, int(row["memory_gb"]) * GIB,
            float(row["bandwidth_gb_s"]) * 1e9, row["unified"] == "yes",
        )
        for row in rows
    )  # fmt: skip


def parse_size(text: str) -> int:
    """Return the bytes of a size as people type it: `12G`, `12 GB`, `512M`, `12`; all units are binary, as of memory.

    Raises:
        BadValue: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if not found:
        raise BadValue(f"{text!r} is no size of memory", "For example: 12G.")
    return int(float(found[1]) * 2 ** _UNITS[found[2]])


def find_cards(text: str) -> list[Card]:
    """Return the cards that a text names: `RTX 4070`, `RTX 4060 Ti 16GB`, `2x RTX 3090`, `My card 20GB`.

    Raises:
        NotFound: the table has none of that name, and no memory is given.
        BadValue: it is sold with several sizes of memory, and none is given.
    """
    found = re.fullmatch(r"\s*(?:(\d{1,2})\s*[x*]\s+)?(.+?)(?:[\s,]+(\d+)\s*g(?:i?b)?)?\s*", text, re.IGNORECASE)
    if not found or found[1] == "0":
        raise BadValue(f"{text!r} names no card", 'For example: --device "RTX 4070 12GB".')
    memory = int(found[3]) * GIB if found[3] else 0
    wanted = _plain(found[2])
    named = [card for card in known_cards() if _plain(card.name) == wanted]
    named = named or [card for card in known_cards() if re.sub("^(rtx|rx|gtx|arc)", "", _plain(card.name)) == wanted]
    chosen = [card for card in named if not memory or card.total_bytes == memory]
    if len(chosen) > 1:
        sizes = ", ".join(f"{card.total_bytes // GIB} GB" for card in chosen)
        raise BadValue(f"{chosen[0].name} is sold with {sizes}", f'Say which: --device "{chosen[-1].title}".')
    if named and not chosen:
        sizes = " and ".join(f"{card.total_bytes // GIB} GB" for card in named)
        raise BadValue(f"{named[0].name} has {sizes}, not {found[3]} GB", "For another one, say --vram alone.")
    if not chosen and not memory:
        names = {_plain(card.name): card.name for card in known_cards()}
        near = get_close_matches(wanted, names, n=3, cutoff=0.6)
        hint = f"Did you mean {', '.join(names[one] for one in near)}?" if near else "Add its memory: "
        raise NotFound(f"No card {found[2]!r} is known", hint if near else hint + f'--device "{found[2]} 16GB".')
    card = chosen[0] if chosen else Card(found[2], "", memory, memory)
    return [card] * int(found[1] or 1)


def _plain(name: str) -> str:
    """Return a name without what people leave out: the maker, `GeForce`, spaces, hyphens, capitals."""
    words = re.sub(r"[-_]", " ", name.lower()).replace("super", " super").replace("ti ", " ti ").split()
    maker = {"nvidia", "geforce", "amd", "radeon", "intel", "apple", "graphics", "gpu", "laptop"}
    short = "".join(word for word in words if word not in maker or word == "laptop")
    return short.replace("mobile", "laptop")
