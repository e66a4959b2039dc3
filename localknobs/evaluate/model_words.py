"""A model as it is written where several are compared: its name, then flags of its own, `some-Q4_K_M -ctk q4_0`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue, NotFound
from localknobs.flags import Parser, add_knob_flags, chosen
from localknobs.knobs import Value, flag_words
from localknobs.library import BUILT_IN, find_model


@dataclass(frozen=True, slots=True)
class ModelWords:
    """What was written.

    Args:
        name: Short name of the model.
        path: Its file.
        flags: The flags as they were typed.
        loading: Loading knobs among them, adapters too.
        sampling: Sampling knobs among them.
        preset: The sampling preset that is named; empty for none.
    """

    name: str
    path: Path
    flags: str = ""
    loading: Mapping[str, Value] = field(default_factory=dict)
    sampling: Mapping[str, Value] = field(default_factory=dict)
    preset: str = ""

    @property
    def label(self) -> str:
        """Name and flags."""
        return f"{self.name} {self.flags}".strip()

    @property
    def settled_flags(self) -> str:
        """The flags in one order and one spelling, so that the same settings are the same text."""
        words = flag_words(dict(sorted(self.loading.items()))) + flag_words(dict(sorted(self.sampling.items())))
        return shlex.join([*words, *(["--preset", self.preset] if self.preset else [])])

    def settings(self, common: Mapping[str, Value] | None = None) -> LoadSettings:
        """Return how it is loaded.

        Args:
            common: Loading knobs of all models; its own come before them.
        """
        return LoadSettings(model=self.path, **{**(common or {}), **self.loading})  # type: ignore[arg-type]


class _QuotedFlags(Parser):
    """Reads the flags of one model, and complains as of a value."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Raise the complaint; `--help` among them is one too."""
        what = (message or f"{self.prog}: Flags of a model are knobs, such as -c 2048").strip()
        raise BadValue(what.rstrip("."), "" if what.endswith("?") else "`localknobs knobs` lists them.")

    def print_help(self, file: object = None) -> None:
        """Print nothing: a screen may be shown."""


def read_model_words(text: str, tables: Sequence[str] = ("loading",)) -> ModelWords:
    """Read a model with flags of its own.

    Args:
        text: A path, a name of the library, or `built-in`; behind it flags as on the command line.
        tables: Tables of knobs whose flags are allowed: `loading`, `sampling` (with `--preset`).

    Raises:
        NotFound: there is no such model.
        BadValue: a flag that there is not, or a value that it does not take.
    """
    text = text.strip()
    name, path = _named(text)
    if name == text:
        return ModelWords(_short_name(text), path)
    flags = text[len(name) :].strip()
    parser = _QuotedFlags(_short_name(name))
    for table in tables:
        add_knob_flags(parser, table)
    if "sampling" in tables:
        parser.add_argument("--preset", default="")
    try:
        words = shlex.split(flags)
    except ValueError:
        raise BadValue(f"A quotation mark is not closed in {flags}", "Close it.") from None
    options = parser.parse_args(words)
    found = {table: chosen(options, table) for table in tables}
    return ModelWords(
        _short_name(name), path, flags, found.get("loading", {}), found.get("sampling", {}),
        options.preset if "sampling" in tables else "",
    )  # fmt: skip


def _named(text: str) -> tuple[str, Path]:
    """Return the longest beginning that names a model, up to where flags may begin, and its file."""
    name = text
    while True:
        try:
            return name, find_model(name)
        except NotFound:
            shorter = name.rpartition(" -")[0].rstrip()
            if not shorter:
                raise
            name = shorter


def _short_name(name: str) -> str:
    return name if name == BUILT_IN else Path(name).stem if name.endswith(".gguf") else name
