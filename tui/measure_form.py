"""What the Measure screen's fields say, as the words of a command line, and back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields

from localknobs.errors import BadValue

_FLAGS = {
    "base": "--base", "suites": "--suite", "minutes": "--minutes", "tasks": "--tasks", "text": "--text",
    "vram": "--vram",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MeasureForm:
    """What is to be measured; an empty field is not on the command line.

    Args:
        models: Each a model with its flags, as `eval` takes them.
        base: The parent, written the same way.
        suites: Names, separated by commas.
        minutes: Time that measuring may take.
        tasks: A task file, or the name of a shipped suite.
        text: A text file.
        vram: Memory of a card, such as `12G`.
        more: Other flags of `eval`, as they are typed.
    """

    models: tuple[str, ...] = ()
    base: str = ""
    suites: str = ""
    minutes: str = ""
    tasks: str = ""
    text: str = ""
    vram: str = ""
    more: str = ""

    def arguments(self) -> list[str]:
        """Return the words after `localknobs`.

        Raises:
            BadValue: the other flags have a quote that does not end.
        """
        words = ["eval", *self.models]
        for name, flag in _FLAGS.items():
            if value := getattr(self, name).strip():
                words += [flag, value]
        try:
            return [*words, *shlex.split(self.more)]
        except ValueError as error:
            raise BadValue(f"The other flags cannot be read: {error}", "A quote needs its end.") from None

    @property
    def command(self) -> str:
        """The command line; what cannot be read yet is shown as it is typed."""
        try:
            return shlex.join(["localknobs", *self.arguments()])
        except BadValue as error:
            return str(error)

    @classmethod
    def of(cls, arguments: Sequence[str]) -> MeasureForm:
        """Return the fields that `arguments` was made of; what belongs to none of them is among the other flags."""
        words = list(arguments[1:])
        models: list[str] = []
        while words and not words[0].startswith("-"):
            models.append(words.pop(0))
        names = {flag: name for name, flag in _FLAGS.items()}
        found: dict[str, str] = {}
        more: list[str] = []
        while words:
            word = words.pop(0)
            if word in names and words and names[word] not in found:
                found[names[word]] = words.pop(0)
            elif word != "--json":
                more.append(word)
        known = {field.name for field in fields(cls)}
        return cls(tuple(models), **{key: value for key, value in found.items() if key in known}, more=shlex.join(more))
