"""Look-ups over all knob rows: by name or flag, by lever, defaults, and checks with the near name."""

from __future__ import annotations

from collections.abc import Mapping

from localknobs.errors import UnknownName
from localknobs.knobs.cache import CACHE
from localknobs.knobs.finetune import FINETUNE
from localknobs.knobs.loading import LOADING
from localknobs.knobs.record import Knob, Value
from localknobs.knobs.rope import ROPE
from localknobs.knobs.sampling import SAMPLING

KNOBS: dict[str, Knob] = {row.name: row for row in (*SAMPLING, *LOADING)}
"""Every knob of a loaded model by name, in the order a person should meet them."""

ALL_KNOBS: dict[str, Knob] = {row.name: row for row in (*FINETUNE, *KNOBS.values())}
"""Those, and the knobs of jobs that make new files."""

_CONTEXT = tuple(row for row in LOADING if row.name == "n_ctx" or row in ROPE or row in CACHE)


def knob(name: str) -> Knob:
    """Return the knob of that name or flag (`temp`, `--temp`, `top-k` and `top_k` all work).

    Raises:
        UnknownName: there is none; the hint gives near names.
    """
    plain = name.strip().lstrip("-").replace("-", "_").lower()
    if plain in ALL_KNOBS:
        return ALL_KNOBS[plain]
    for row in (*KNOBS.values(), *FINETUNE):  # a flag that two verbs share (`--seed`) is the chat's first
        if any(plain == flag.lstrip("-").replace("-", "_").lower() for flag in row.flags):
            return row
    from difflib import get_close_matches  # 4 ms: only on a miss

    near = get_close_matches(plain, ALL_KNOBS, n=3, cutoff=0.5)
    hint = f"Near names: {', '.join(near)}." if near else "`localknobs knobs` lists them."
    raise UnknownName(f"No knob is called {name!r}", hint)


def knobs_of(group_of: str) -> tuple[Knob, ...]:
    """Return one table: `sampling`, `loading`, those of `loading` that shape the `context`, or `fine-tuning`."""
    return {"sampling": SAMPLING, "loading": LOADING, "context": _CONTEXT, "fine-tuning": FINETUNE}[group_of]


def defaults(group_of: str = "sampling") -> dict[str, Value]:
    """Return name to default value for one table."""
    return {row.name: row.default for row in knobs_of(group_of)}


def parse_value(name: str, text: str) -> Value:
    """Read a typed value for the knob of that name; raises `UnknownName` or `BadValue`."""
    return knob(name).parse(text)


def check_value(name: str, value: object) -> Value:
    """Check one value; raises `UnknownName` or `BadValue`."""
    return knob(name).check(value)


def check_values(values: Mapping[str, object]) -> dict[str, Value]:
    """Check several values and return them under their canonical names, each in its knob's own type."""
    checked = {}
    for name, value in values.items():
        row = knob(name)
        checked[row.name] = row.check(value)
    return checked


def flag_words(values: Mapping[str, Value]) -> list[str]:
    """Return values as words of a command line; a switch that is off has none."""
    words: list[str] = []
    for name, value in values.items():
        row = ALL_KNOBS[name]
        if row.words and value:
            words += [row.flags[0], *str(value).split()]
        elif row.kind == "texts" and value and not any(str(text).startswith("[") for text in value):  # type: ignore[union-attr]
            for text in value:  # type: ignore[union-attr]
                words += [row.flags[0], str(text)]
        elif not row.is_switch:
            words += [row.flags[0], row.show(value)]
        elif value == "on":
            words.append(row.flags[0])
    return words
