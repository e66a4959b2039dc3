"""Whether a checkpoint can be converted, and what will come of it, from its configuration and tokenizer alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localknobs.convert import upstream
from localknobs.convert.checkpoint import open_checkpoint, read_json
from localknobs.convert.families import architecture_of
from localknobs.convert.float_types import Floats
from localknobs.convert.plan import (
    notes_about,
    open_family,
    open_vocabulary,
    plan_conversion,
    prove_vocabulary,
    reason_for_upstream,
    sheet_of,
)
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import BadFile, NotFound
from localknobs.hub.download import download
from localknobs.hub.offline import refuse_offline
from localknobs.hub.plan import plan_without_weights
from localknobs.hub.repository import open_repository
from localknobs.hub.spec import parse_spec
from localknobs.jobs import drain
from localknobs.paths import user_path


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a check found.

    Args:
        folder: Where the files are.
        architecture: As `config.json` names it.
        family: llama.cpp's name for it; empty when its own converter must do the work.
        reason: Why that is so; empty when it is not.
        layers: Layers.
        context_tokens: Tokens it was trained for.
        rope: Scaling of the rotary positions.
        tokens: Rows of the embedding.
        vocabulary: llama.cpp's kind of vocabulary.
        pre_tokenizer: Its name of the pre-tokenizer.
        proved: Whether llama.cpp's tokens are the tokenizer's on a hard sample.
        has_template: Whether there is a chat template.
        size_bytes: Size of the GGUF file in the checkpoint's own 16-bit type; 0 when the weights are not there.
        notes: What the user should know.
    """

    folder: Path
    architecture: str
    family: str = ""
    reason: str = ""
    layers: int = 0
    context_tokens: int = 0
    rope: str = ""
    tokens: int = 0
    vocabulary: str = ""
    pre_tokenizer: str = ""
    proved: bool = False
    has_template: bool = False
    size_bytes: int = 0
    notes: tuple[str, ...] = ()


class _WithoutWeights:
    """A checkpoint of which only configuration and tokenizer are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = read_json(folder / "config.json")

    def names(self) -> list[str]:
        return []

    def is_changed(self, name: str) -> bool:
        return False

    def info(self, name: str) -> TensorSpec:
        raise BadFile(f"{self.folder} has no weights", "Fetch them to convert the model.")

    def raw(self, name: str) -> memoryview:
        raise BadFile(f"{self.folder} has no weights", "Fetch them to convert the model.")

    def read(self, name: str) -> Floats:
        raise BadFile(f"{self.folder} has no weights", "Fetch them to convert the model.")

    def read_part(self, name: str, first: int, out: Floats) -> None:
        raise BadFile(f"{self.folder} has no weights", "Fetch them to convert the model.")

    def fill(self, name: str, offset: int, out: npt.NDArray[np.uint8]) -> None:
        raise BadFile(f"{self.folder} has no weights", "Fetch them to convert the model.")


def check(target: str, *, get_converter: bool = False) -> Preflight:
    """Check a folder, or a repository on the hub of which configuration and tokenizer are fetched.

    Args:
        target: A folder, or `org/name`.
        get_converter: Whether llama.cpp's own converter may be downloaded if it is needed.

    Raises:
        Unsupported: nothing here can convert it.
        BadFile: a file is damaged, or llama.cpp would read text differently.
        HubFailure: the repository could not be read.
    """
    folder = user_path(target)
    if not folder.is_dir():
        folder = _fetched(target)
    config = read_json(folder / "config.json")
    architecture = architecture_of(config)
    if reason := reason_for_upstream(config, folder):
        upstream.refuse_own_code(folder)
        upstream.find_converter(reason, download=get_converter)
        return Preflight(folder, architecture, reason=reason)
    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    size = 0
    if has_weights:
        source = open_checkpoint(folder)
        try:
            size = plan_conversion(source, check_tokens=False).size_bytes
        finally:
            source.close()
    family = open_family(_WithoutWeights(folder))
    vocabulary, _ = prove_vocabulary(family, open_vocabulary(family), sheet_of(family, (0, 0, 0, 0), 0))
    return Preflight(
        folder=folder,
        architecture=architecture,
        family=family.architecture,
        layers=family.layers,
        context_tokens=int(family.config.get("max_position_embeddings", 0)),
        rope=family.rope.kind,
        tokens=family.vocabulary_size,
        vocabulary={"llama": "SentencePiece", "gpt2": "byte-level BPE"}[vocabulary.model],
        pre_tokenizer=vocabulary.names[0],
        proved=vocabulary.proved,
        has_template=vocabulary.special.templates is not None,
        size_bytes=size,
        notes=notes_about(family, vocabulary),
    )


def _fetched(repository: str) -> Path:
    """Return a folder with configuration and tokenizer of a repository, in the cache that other programs share."""
    if repository.startswith((".", "/", "~")) or "/" not in repository:
        raise NotFound(f"There is no folder {repository}", "Give the folder of a checkpoint, or org/name of the hub.")
    refuse_offline(f"Checking {repository}")
    spec = parse_spec(repository)
    return drain(download(plan_without_weights(open_repository(spec))))
