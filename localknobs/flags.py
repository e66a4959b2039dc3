"""Flags made from knob rows, in llama.cpp's spellings."""

from __future__ import annotations

from argparse import Action, ArgumentParser, ArgumentTypeError, HelpFormatter, Namespace
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from localknobs.errors import LocalknobsError

if TYPE_CHECKING:
    from localknobs.knobs import Knob, Value


class Formatter(HelpFormatter):
    """Names a flag's value once, after its spellings, on every Python as since 3.13."""

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(ArgumentParser):
    """A parser whose complaint is one line that names the near flag, with exit code 2."""

    def __init__(self, prog: str, description: str = "") -> None:
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=Formatter)

    def error(self, message: str) -> NoReturn:
        """Print the complaint and leave."""
        if message.startswith("unrecognized arguments: "):
            message = self._about_unknown(message.removeprefix("unrecognized arguments: ").split()[0])
        elif message.startswith("argument ") and "cannot be" in message:
            message = message.split(": ", 1)[1]  # a knob's own words, which name the flag
        else:
            message = message[0].upper() + message[1:]
        self.exit(2, f"{self.prog}: {message}\n")

    def _about_unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"There is one word too many: {word}. A text with spaces needs quotes."
        near = get_close_matches(word.split("=")[0], self._option_string_actions, n=1, cutoff=0.5)
        return f"There is no flag {word}. " + (
            f"Did you mean {near[0]}?" if near else f"`{self.prog} --help` lists them."
        )


class _More(Action):
    """Adds the texts of a flag that is given again to those before."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None) -> None:
        """Keep all texts so far."""
        setattr(namespace, self.dest, (*(getattr(namespace, self.dest) or ()), *values))


class _Words(Action):
    """Makes one value of the words of a flag."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None) -> None:
        """Keep them with spaces between."""
        setattr(namespace, self.dest, " ".join(values))


_METAVARS = {
    "float": "NUMBER", "int": "NUMBER", "choice": "NAME", "names": "NAMES", "text": "TEXT", "texts": "TEXT",
    "bias": "BIAS",
}  # fmt: skip


def add_knob_flags(parser: ArgumentParser, group_of: str) -> None:
    """Add a flag for every knob of a table: `sampling` or `loading`."""
    from localknobs.knobs import knobs_of  # 20 ms, which verbs without knobs are spared

    section = parser.add_argument_group(f"{group_of} knobs")
    for row in knobs_of(group_of):
        if row.is_switch:
            section.add_argument(
                *row.flags, dest=row.name, action="store_const", const="on", default=None,
                help=f"{row.help} default {row.show(row.default)}".replace("%", "%%"),
            )  # fmt: skip
        elif row.words:
            section.add_argument(
                *row.flags, dest=row.name, nargs=len(row.words), default=None, metavar=row.words, action=_Words,
                help=f"{row.help} default {default_text(row)}".replace("%", "%%"),
            )  # fmt: skip
        elif row.flags:
            section.add_argument(
                *row.flags, dest=row.name, type=_reader(row), default=None, metavar=_METAVARS[row.kind],
                action=_More if row.kind == "texts" else "store",
                help=f"{row.help} {row.range_text()}; default {default_text(row)}".replace("%", "%%"),
            )  # fmt: skip


def default_text(row: Knob) -> str:
    """Return a knob's default the way it is typed, `none` when it is empty."""
    return "none" if row.default in ("", ()) else row.show(row.default)


def chosen(options: Namespace, group_of: str) -> dict[str, Value]:
    """Return the knobs of a table that were given on the command line."""
    from localknobs.knobs import knobs_of

    given = {row.name: getattr(options, row.name, None) for row in knobs_of(group_of)}
    values = {name: value for name, value in given.items() if value is not None}
    if loras := values.get("lora"):
        from localknobs.convert.adapter_cache import as_gguf  # 40 ms, and only for adapters

        values["lora"] = tuple(as_gguf(str(text)) for text in loras)
    return values


def _reader(row: Knob) -> Callable[[str], Any]:
    def read(text: str) -> Value:
        try:
            return row.parse(text)
        except LocalknobsError as error:
            raise ArgumentTypeError(f"{error.message}. {error.hint}") from None

    return read
