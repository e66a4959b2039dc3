"""Named sets of sampling values: the shipped ones, the model's own, and the user's TOML files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound, UnknownName
from localknobs.knobs import Value, check_values, defaults, knobs_of
from localknobs.paths import presets_folder, written_whole

Source = Literal["shipped", "model", "user"]
NOT_SAVED = ("seed", "n_predict", "stop", "grammar", "logit_bias")
"""Knobs of one run, not of a style: a preset leaves them as they are."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of sampling values.

    Args:
        name: What the user types.
        values: A value for every sampling knob but those of one run (`NOT_SAVED`).
        source: Who made it.
        help: When to pick it, one sentence.
    """

    name: str
    values: dict[str, Value]
    source: Source
    help: str


_SHIPPED: tuple[tuple[str, dict[str, Value], str], ...] = (
    ("deterministic", {"temp": 0.0, "top_p": 1.0}, "Always the likeliest token: the same answer every time."),
    ("code", {"temp": 0.1, "top_p": 0.95}, "Code and facts: nearly always the likeliest token."),
    ("chat", {"temp": 0.7, "top_p": 0.9}, "Everyday talk: steady, with some variety."),
    ("creative", {"temp": 1.0, "top_p": 0.95}, "Stories and texts: the model's own spread."),
    ("brainstorm", {"temp": 1.2, "top_p": 0.98}, "Many different ideas, some of them odd."),
)


_PROGRAMS = ("default", "model", *(name for name, _, _ in _SHIPPED))


def _whole(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return a value for every knob of a style: the given one, else llama.cpp's default."""
    return {name: values.get(name, default) for name, default in defaults("sampling").items() if name not in NOT_SAVED}


def _everything_off() -> dict[str, Value]:
    """Return the defaults with every sampler off; windows stay, so that a penalty raised later works."""
    values: dict[str, Value] = {}
    for row in knobs_of("sampling"):
        if row.name not in NOT_SAVED:
            values[row.name] = row.default if row.off is None or row.name.endswith("_last_n") else row.off
    return values


def presets(recommended: Mapping[str, Value] | None = None) -> dict[str, Preset]:
    """Return every preset by name, in the order to show them.

    Args:
        recommended: The loaded model's own values (`ModelInfo.recommended`); they become the preset `model`.
    """
    found = {"default": Preset("default", _whole({}), "shipped", "llama.cpp's own defaults.")}
    if recommended:
        found["model"] = Preset("model", _whole(recommended), "model", "What the model's author recommends.")
    for name, values, help_text in _SHIPPED:
        found[name] = Preset(name, {**_everything_off(), **values}, "shipped", help_text)
    for file in sorted(presets_folder().glob("*.toml")):
        if _is_name(file.stem) and file.stem not in _PROGRAMS:
            try:
                found[file.stem] = _read(file)
            except LocalknobsError:
                continue  # a broken file is told when it is asked for by name
    return found


def preset(name: str, recommended: Mapping[str, Value] | None = None) -> Preset:
    """Return the preset of that name.

    Raises:
        UnknownName: there is none; the hint names the nearest.
        BadFile: the user's file of that name is broken.
        NotFound: `model` was asked for and the model recommends nothing.
    """
    known = presets(recommended)
    if name in known:
        return known[name]
    if name == "model":
        raise NotFound("This model recommends no sampling values", f"Presets are: {', '.join(known)}.")
    file = presets_folder() / f"{name}.toml"
    if _is_name(name) and file.is_file():
        return _read(file)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    raise UnknownName(
        f"There is no preset {name!r}", f"Did you mean {near[0]}?" if near else f"Presets are: {', '.join(known)}."
    )


def check_preset_name(name: str) -> None:
    """Check that the user can give a new preset this name.

    Raises:
        BadValue: it is not allowed, belongs to the program, or the user has a preset of that name already.
    """
    _check_own_name(name)
    file = presets_folder() / f"{name}.toml"
    if file.exists():
        raise BadValue(
            f"You have a preset {name} already",
            f"Choose another name. To free this one, delete the preset in the list of presets (F8), or delete {file}.",
        )


def save_preset(name: str, values: Mapping[str, Value]) -> Path:
    """Save sampling values under a name, over an older preset of the user's of that name.

    Args:
        name: Letters, digits, `-`, `_`, at most 40.
        values: Knob values; what is missing is saved as llama.cpp's default.

    Returns:
        The TOML file.

    Raises:
        BadValue: the name is not allowed or belongs to a shipped preset.
        LocalknobsError: the disk refuses.
    """
    import tomli_w

    _check_own_name(name)
    whole = _whole(check_values(values))
    file = presets_folder() / f"{name}.toml"
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in whole.items()}
    try:
        with written_whole(file) as beside:
            beside.write_text(tomli_w.dumps(plain), encoding="utf-8")
    except OSError as error:
        raise LocalknobsError(
            f"{file} cannot be written: {error.strerror}", "Free some space, or check the folder."
        ) from None
    return file


def delete_preset(name: str) -> None:
    """Delete a preset of the user's.

    Raises:
        UnknownName: the user has none of that name.
    """
    file = presets_folder() / f"{name}.toml"
    if not _is_name(name) or not file.is_file():
        raise UnknownName(f"You have no preset {name!r}", "Presets of the program cannot be deleted.")
    try:
        file.unlink()
    except OSError as error:
        raise LocalknobsError(f"{file} cannot be deleted: {error.strerror}", "Check its permissions.") from None


def _is_name(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name))


def _check_own_name(name: str) -> None:
    if not _is_name(name):
        raise BadValue(f"{name!r} cannot be a preset's name", "Use letters, digits, - and _, at most 40.")
    if name in _PROGRAMS:
        raise BadValue(f"{name} is a preset of the program", "Choose another name.")


def _read(file: Path) -> Preset:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        values = check_values(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{file} is not TOML: {error}", "Mend or delete it.") from None
    except LocalknobsError as error:  # before OSError, which an unknown knob's error is as well
        raise BadFile(f"{file}: {error.message}", error.hint) from None
    except OSError as error:
        raise BadFile(f"{file} cannot be read: {error.strerror}", "Check its permissions.") from None
    return Preset(file.stem, _whole(values), "user", f"Your own, {file}.")
