"""Read the header of a GGUF file in plain Python: bounded, without the weights, safe on hostile files.

Only what the header says; nothing is believed that does not fit the file's length. Long arrays
(the vocabulary) are stepped over. Source: ggml/docs/gguf.md and gguf.cpp of llama.cpp.
"""

from __future__ import annotations

import math
import re
import stat
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from localknobs.errors import BadFile, LocalknobsError, NotFound, Unsupported
from localknobs.ggml_types import FILE_TYPES, GGML_TYPES
from localknobs.knobs import KNOBS, Value

MAX_KEYS, MAX_TENSORS, MAX_KEPT_NUMBERS = 65_536, 1_048_576, 512
MAX_TEXTS = 4_194_304  # of an array; the largest vocabularies have a quarter of a million
MAX_TEXT_BYTES = 256 * 2**20  # of all texts that are kept
ROPE_SCALING_TYPES = ("none", "linear", "yarn", "longrope")  # llama-model.cpp; others abort the process
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_AGAIN = "Download it again."

Kind = Literal["model", "adapter", "projector", "imatrix"]


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """An array of the header that was not kept.

    Args:
        count: Elements.
        element_type: GGUF's number of their type.
    """

    count: int
    element_type: int


Scalar = int | float | bool | str
Metadata = Scalar | tuple[Scalar, ...] | ArrayInfo


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor.

    Args:
        name: Its name.
        shape: Sizes, the fastest first, as GGUF writes them.
        type_name: ggml's name of its type, such as `Q4_K`.
        offset: Bytes from the beginning of the data.
        size_bytes: Bytes it takes.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Values in it."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself.

    Args:
        path: The file.
        version: GGUF version, 2 or 3.
        metadata: Key to value; arrays of up to 512 numbers are kept, longer ones are `ArrayInfo`.
        tensors: In file order.
        data_start: Byte of the file from which the tensors' offsets count.
        key_ends: Byte of the file behind each key's value, in file order; the first key begins at 24.
    """

    path: Path
    version: int
    metadata: dict[str, Metadata]
    tensors: tuple[TensorInfo, ...]
    data_start: int = 0
    key_ends: tuple[int, ...] = ()

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as `llama`."""
        return self.text("general.architecture")

    @property
    def name(self) -> str:
        """The model's own name, or the file's."""
        return self.text("general.name") or self.path.stem

    @property
    def kind(self) -> Kind:
        """What the file holds."""
        declared = self.text("general.type")
        if declared == "adapter" or "adapter.type" in self.metadata:
            return "adapter"
        if declared == "imatrix" or "imatrix.datasets" in self.metadata:
            return "imatrix"
        if declared == "mmproj" or self.architecture == "clip":
            return "projector"
        return "model"

    @property
    def parameters(self) -> int:
        """Values in all tensors of this file."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors of this file."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Mean bits a value takes."""
        return 8 * self.tensor_bytes / self.parameters if self.parameters else 0.0

    @property
    def context_trained(self) -> int:
        """Tokens of context the model was trained with; 0 when the file does not say."""
        return self.number("context_length")

    @property
    def chat_template(self) -> str | None:
        """Source of the chat template."""
        return self.text("tokenizer.chat_template") or None

    @property
    def quant(self) -> str:
        """The quantization's name, such as `Q4_K_M`: what the file declares, or else its most frequent type."""
        declared = self.metadata.get("general.file_type")
        if isinstance(declared, int) and declared in FILE_TYPES:
            return FILE_TYPES[declared]
        weight: Counter[str] = Counter()
        for tensor in self.tensors:
            weight[tensor.type_name] += tensor.size_bytes
        return weight.most_common(1)[0][0] if weight else "unknown"

    @property
    def shards(self) -> int:
        """Files the model was split into; 1 when it was not."""
        count = self.metadata.get("split.count")
        return count if isinstance(count, int) and count > 0 else 1

    @property
    def sampling(self) -> dict[str, Value]:
        """The author's recommended sampling values (`general.sampling.*`); what no knob allows is left out."""
        found: dict[str, Value] = {}
        for key, name in _SAMPLING_KEYS.items():
            value = self.metadata.get(f"general.sampling.{key}")
            if isinstance(value, int | float) and not isinstance(value, bool):
                try:
                    # Stored as 32-bit floats: 0.9 must not become 0.8999999762.
                    found[name] = KNOBS[name].check(float(f"{value:.6g}") if isinstance(value, float) else value)
                except LocalknobsError:
                    continue
        return found

    def text(self, key: str) -> str:
        """Return a text of the header, empty when it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """Return a number under the architecture's prefix (`block_count` is `llama.block_count`); 0 when missing."""
        values = self.per_layer(key)
        return max(values) if values else 0

    def per_layer(self, key: str) -> tuple[int, ...]:
        """Return a value that may be one number or one a layer, as whole numbers; empty when missing."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        values = value if isinstance(value, tuple) else (value,)
        return tuple(int(item) for item in values if isinstance(item, int | float) and math.isfinite(item))


_SAMPLING_KEYS = {
    "temp": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}


def read_header(path: Path) -> Header:
    """Read a GGUF header.

    Args:
        path: A GGUF file; of a split model, its first shard.

    Raises:
        NotFound: there is no such file.
        BadFile: it is no GGUF, or damaged or cut short; the message says which and what to do.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise BadFile(f"{path} is no ordinary file", "Give a .gguf file on disk.")  # a pipe would block for ever
        with path.open("rb") as file:
            return _Reader(path, file, status.st_size).header()
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}", "`localknobs ls` lists the models on this machine.") from None
    except IsADirectoryError:
        raise BadFile(f"{path} is a folder, not a GGUF file", "Name the .gguf file inside it.") from None
    except OSError as error:
        raise BadFile(
            f"{path} cannot be read: {error.strerror or error}", "Check its permissions and the disk."
        ) from None


def check_is_model(header: Header) -> None:
    """Refuse what llama.cpp would crash on or could not chat with.

    Raises:
        BadFile: an adapter, a projector, an importance matrix, or a missing shard.
        Unsupported: a RoPE scaling that llama.cpp does not know, on which it aborts.
    """
    what = {"adapter": "a LoRA adapter", "projector": "an image projector", "imatrix": "an importance matrix"}.get(
        header.kind
    )
    if what:
        raise BadFile(f"{header.path} is {what}, not a model", "Give the model's own GGUF file.")
    if not header.architecture:
        raise BadFile(f"{header.path} names no architecture", "It is not a whole model. " + _AGAIN)
    scaling = header.text(f"{header.architecture}.rope.scaling.type")
    if scaling and scaling not in ROPE_SCALING_TYPES:
        raise Unsupported(
            f"{header.path} asks for the RoPE scaling {scaling!r}", f"llama.cpp knows {', '.join(ROPE_SCALING_TYPES)}."
        )
    for shard in shard_paths(header):
        if not shard.is_file():
            raise BadFile(
                f"{header.path} is split into {header.shards} files, and {shard.name} is missing",
                "Put all of them into one folder.",
            )


def shard_paths(header: Header) -> tuple[Path, ...]:
    """Return the files of a model, the first shard first; one when it is not split."""
    named = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", header.path.name)
    if header.shards == 1 or not named:
        return (header.path,)
    return tuple(
        header.path.with_name(f"{named[1]}-{number:05d}-of-{header.shards:05d}.gguf")
        for number in range(1, header.shards + 1)
    )


class _Reader:
    """Reads one file from its beginning; every count is checked before it is used."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self._text_bytes = 0

    def header(self) -> Header:
        beginning = self.file.read(4)
        if beginning != b"GGUF":
            raise self._not_gguf(beginning + self.file.read(508))
        version = self._scalar("I")
        if version not in (2, 3):
            raise BadFile(
                f"{self.path} has GGUF version {version}, and versions 2 and 3 are known",
                "Convert the model again with a current program.",
            )
        tensor_count, key_count = self._scalar("Q"), self._scalar("Q")
        if key_count > MAX_KEYS or tensor_count > MAX_TENSORS:
            raise self._damaged(f"it claims {key_count:,} keys and {tensor_count:,} tensors")
        metadata: dict[str, Metadata] = {}
        key_ends = []
        for _ in range(key_count):
            key = self._text()
            metadata[key] = self._value(self._scalar("I"))
            key_ends.append(self.file.tell())
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {alignment!r}")
        start = (self.file.tell() + alignment - 1) // alignment * alignment
        for tensor in tensors:
            end = start + tensor.offset + tensor.size_bytes
            if end > self.size:
                raise BadFile(
                    f"{self.path} is cut short: it has {self.size:,} bytes, and {tensor.name} ends at {end:,}",
                    "The download is not complete. " + _AGAIN,
                )
        return Header(self.path, version, metadata, tensors, start, tuple(key_ends))

    def _tensor(self) -> TensorInfo:
        name = self._text()
        dimensions = self._scalar("I")
        if dimensions > 4:
            raise self._damaged(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))
        number, offset = self._scalar("I"), self._scalar("Q")
        if number not in GGML_TYPES:
            raise Unsupported(
                f"{self.path}: tensor {name!r} has the unknown type {number}",
                "It needs a newer llama.cpp, or the file is damaged.",
            )
        type_name, block, block_bytes = GGML_TYPES[number]
        elements = 1
        for size in shape:
            elements *= size
        if shape and shape[0] % block:
            raise self._damaged(f"tensor {name!r} has rows of {shape[0]} values, which {type_name} cannot hold")
        return TensorInfo(name, shape, type_name, offset, elements // block * block_bytes)

    def _value(self, kind: int) -> Metadata:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise self._damaged(f"a value has the unknown type {kind}")
        return self._scalar(_SCALARS[kind])

    def _array(self) -> Metadata:
        element, count = self._scalar("I"), self._scalar("Q")
        if element in _SCALARS:
            width = struct.calcsize(_SCALARS[element])
            if count * width > self.size:
                raise self._damaged(f"an array claims {count:,} elements")
            if count <= MAX_KEPT_NUMBERS:
                return tuple(self._scalar(_SCALARS[element]) for _ in range(count))
            self._skip(count * width)
        elif element == _TEXT:
            if count * 8 > self.size or count > MAX_TEXTS:
                raise self._damaged(f"an array claims {count:,} texts")
            if count <= 16:
                return tuple(self._text() for _ in range(count))
            for _ in range(count):
                self._skip(self._scalar("Q"))
        else:
            raise self._damaged(f"an array has elements of type {element}")
        return ArrayInfo(count, element)

    def _text(self) -> str:
        length = self._scalar("Q")
        self._text_bytes += length
        if length > self.size or self._text_bytes > MAX_TEXT_BYTES:
            raise self._damaged(f"a text claims {length:,} bytes")
        return self._bytes(length).decode("utf-8", "replace")

    def _scalar(self, code: str) -> int:
        layout = "<" + code
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]  # type: ignore[no-any-return]

    def _bytes(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise BadFile(
                f"{self.path} is cut short inside its header ({self.size:,} bytes)",
                "The download is not complete. " + _AGAIN,
            )
        return data

    def _skip(self, count: int) -> None:
        if self.file.tell() + count > self.size:
            raise BadFile(
                f"{self.path} is cut short inside its header ({self.size:,} bytes)",
                "The download is not complete. " + _AGAIN,
            )
        self.file.seek(count, 1)

    def _damaged(self, why: str) -> BadFile:
        return BadFile(f"{self.path} is damaged: {why}", _AGAIN)

    def _not_gguf(self, beginning: bytes) -> BadFile:
        lower = beginning.lstrip().lower()
        if not beginning:
            return BadFile(f"{self.path} is empty", _AGAIN)
        if lower.startswith((b"<!doctype", b"<html")):
            return BadFile(f"{self.path} is a web page, not a model", "The download link was wrong or needs a log-in.")
        if beginning.startswith(b"version https://git-lfs"):
            return BadFile(f"{self.path} is a Git LFS pointer, not the model", "Fetch the real file: git lfs pull.")
        if beginning.startswith((b"ggml", b"lmgg", b"tjgg", b"fmgg")):
            return BadFile(
                f"{self.path} is in the old GGML format from before GGUF", "Find or convert a GGUF of the model."
            )
        if (
            beginning.startswith(b"PK")
            or b"__metadata__" in beginning
            or self.path.suffix in (".safetensors", ".bin", ".pt", ".pth")
        ):
            return BadFile(f"{self.path} is a checkpoint, not a GGUF file", "Convert it to GGUF first.")
        return BadFile(f"{self.path} is not a GGUF file", "Give a file that ends in .gguf.")
