"""A row of the library, and what is known of it before its header is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BUILT_IN = "built-in"
"""Name of the model that comes with the program."""
State = Literal["whole", "damaged", "unfinished"]


@dataclass(frozen=True, slots=True)
class Found:
    """A model as a folder tells of it, its header not yet read.

    Args:
        name: What the user types to name it.
        source: Key of the source, see `SOURCES`.
        files: Its files, the first shard first; of a checkpoint, its folder.
        kind: What it is, where the layout tells; empty when the header must be asked.
        aliases: Other names of it.
        sha256: Hash of the first file in hexadecimal, where the layout tells it.
        projector: The image projector that belongs to it.
        state: As far as the layout tells.
        trouble: What is wrong with it, and what to do.
    """

    name: str
    source: str
    files: tuple[Path, ...]
    kind: str = ""
    aliases: tuple[str, ...] = ()
    sha256: str = ""
    projector: Path | None = None
    state: State = "whole"
    trouble: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of it."""
        return (self.name, *self.aliases)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the library.

    Args:
        name: What the user types to name it.
        path: Its GGUF file, the first shard when it is split; of a checkpoint, its folder.
        size_bytes: Bytes on disk, of all shards and the projector.
        quant: Quantization, such as `Q4_K_M`; of a checkpoint, the type of its weights.
        context: Tokens of context it was trained with, 0 when unknown.
        architecture: llama.cpp's name; of a checkpoint, the name in its config.
        kind: `model`, `adapter`, `control vector`, `projector`, `imatrix`, `checkpoint` (convertible); `unknown` when
            it cannot be read.
        parameters: Values in all files.
        trouble: Why it cannot be used, and what to do.
        source: Key of the source, see `SOURCES`.
        state: Whether all of it is there.
        files: All its files, the first shard first.
        projector: The image projector that belongs to it.
        aliases: Other names of the same file, those of other programs included.
        also_at: Other places of the same content.
        title: The name the file gives itself.
    """

    name: str
    path: Path
    size_bytes: int
    quant: str = ""
    context: int = 0
    architecture: str = ""
    kind: str = "model"
    parameters: int = 0
    trouble: str = ""
    source: str = "own"
    state: State = "whole"
    files: tuple[Path, ...] = ()
    projector: Path | None = None
    aliases: tuple[str, ...] = ()
    also_at: tuple[Path, ...] = ()
    title: str = ""

    @property
    def argument(self) -> str:
        """What a verb is given to mean it: its path, which no other entry has; of the built-in model, its name."""
        return self.name if self.name == BUILT_IN else str(self.path)

    @property
    def identity(self) -> str:
        """What stays the same from one listing to the next, and is of no other row."""
        return str(self.path)

    @property
    def usable(self) -> bool:
        """Whether it can be chatted with."""
        return self.kind == "model" and not self.trouble and self.state == "whole"
