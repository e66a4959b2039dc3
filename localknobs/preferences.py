"""Small choices that are remembered between runs, such as the theme: a TOML file the user may edit."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from localknobs.errors import LocalknobsError
from localknobs.paths import config_folder, written_whole


def _file() -> Path:
    return config_folder() / "preferences.toml"


def read() -> dict[str, Any]:
    """Return what is remembered; a file that is missing or broken remembers nothing."""
    try:
        return tomllib.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write(**choices: str | int | bool | list[str]) -> None:
    """Remember choices besides the ones remembered already.

    Raises:
        LocalknobsError: the file cannot be written.
    """
    import tomli_w

    try:
        with written_whole(_file()) as beside:
            beside.write_text(tomli_w.dumps({**read(), **choices}), encoding="utf-8")
    except OSError as error:
        raise LocalknobsError(f"{_file()} cannot be written: {error.strerror}", "Check its permissions.") from None
