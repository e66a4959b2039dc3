"""Read the header of a GGUF file: nothing is believed that does not fit the file's length.

Long arrays (the vocabulary) are stepped over, or leapt over for a listing. Work and memory are bounded by
the limits below, whatever the file claims. Source: ggml/docs/gguf.md and gguf.cpp of llama.cpp.
"""

from __future__ import annotations

import shlex
import stat
from pathlib import Path
from struct import Struct, calcsize

from localknobs.errors import BadFile, LocalknobsError, NotFound, Unsupported
from localknobs.ggml_types import GGML_TYPES
from localknobs.gguf_info.header import ArrayInfo, Header, Metadata, TensorInfo
from localknobs.gguf_info.leap import WORTH_IT, guess_end_of_texts
from localknobs.gguf_info.window import FIRST_READ, LARGEST_READ, CutShort, Stream, Window
from localknobs.storing import was_cut_off

MAX_KEYS, MAX_KEPT_NUMBERS = 65_536, 512
MAX_TENSORS = 131_072  # DeepSeek with every expert by itself has 46,000
MAX_TEXTS = 4_194_304  # of all arrays; the largest vocabularies have a quarter of a million, and twice as many merges
MAX_TEXT_BYTES = 64 * 2**20  # of all texts that are kept; the longest chat templates have 0.1 MiB
MAX_KEY_BYTES, MAX_TENSOR_NAME_BYTES = 65_535, 1024  # the format allows 65,535 and 64
MAX_SKIMMED_TEXT = 4096  # bytes of a text that a listing keeps
MAX_SKIMMED_BYTES = 16 * 2**20  # of all that it keeps; one wide letter makes a text take four times as much
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LAYOUTS = {code: Struct("<" + code) for code in _SCALARS.values()}
_TENSOR_LAYOUTS = [Struct(f"<{dimensions}QIQ") for dimensions in range(5)]
_LONGEST_TENSOR_INFO = 8 + MAX_TENSOR_NAME_BYTES + 4 + _TENSOR_LAYOUTS[4].size
_LENGTH = _LAYOUTS["Q"].unpack_from
_TEXT, _ARRAY = 8, 9
_AGAIN = "Download it again."


def read_header(path: Path, *, skim: bool = False) -> Header:
    """Read a GGUF header.

    Args:
        path: A GGUF file; of a split model, its first shard.
        skim: For a listing: texts over 4 KiB are left out, and long arrays are leapt over where the rest proves
            that the leap was right.

    Raises:
        NotFound: there is no such file.
        BadFile: it is no GGUF, or damaged or cut short; the message says which and what to do.
        Unsupported: a tensor has a type that is not known.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise BadFile(f"{path} is no ordinary file", "Give a .gguf file on disk.")  # a pipe would block for ever
        if stat.S_ISREG(status.st_mode) and was_cut_off(path):
            raise BadFile(
                f"{path} was not stored whole before the machine stopped, and parts of it are lost",
                f"Make it again: localknobs redo {shlex.quote(str(path))}",
            )
        with path.open("rb", buffering=0) as file:
            return parse_header(file, status.st_size, path, skim=skim)
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}", "`localknobs ls` lists the models on this machine.") from None
    except IsADirectoryError:
        raise BadFile(f"{path} is a folder, not a GGUF file", "Name the .gguf file inside it.") from None
    except OSError as error:
        raise BadFile(
            f"{path} cannot be read: {error.strerror or error}", "Check its permissions and the disk."
        ) from None


def parse_header(stream: Stream, size_bytes: int, path: Path | str, *, skim: bool = False) -> Header:
    """Read a GGUF header from anything that can be read and sought in, such as ranges of a remote file.

    Args:
        stream: The file; read forward in pieces of 64 KiB to 2 MiB. With `skim`, also in small pieces back and
            forth, about thirty for a vocabulary.
        size_bytes: Of the whole file, tensors included.
        path: The file's name, for messages and for the names of its shards.
        skim: As for `read_header`.

    Raises:
        BadFile: it is no GGUF, or damaged or cut short; the message says which and what to do.
        Unsupported: a tensor has a type that is not known.
        OSError, LocalknobsError: whatever the stream raises.
    """
    path = Path(path)
    if skim:
        try:
            return _Parser(stream, size_bytes, path, skim=True, leaps=True).header()
        except _LeapFailed:
            pass
    return _Parser(stream, size_bytes, path, skim=skim, leaps=False).header()


class _LeapFailed(Exception):
    """What follows a leap is not what the file promised: the texts must be stepped through."""


class _Parser:
    """Reads one file from its beginning; every count is checked before it is used."""

    def __init__(self, stream: Stream, size: int, path: Path, *, skim: bool, leaps: bool) -> None:
        # Behind a leap only a little is left to read.
        self._window = Window(stream, size, FIRST_READ if leaps else LARGEST_READ)
        self._size, self._path = size, path
        self._skim, self._leaps, self._leapt = skim, leaps, False
        self._at = 0
        self._text_bytes = self._texts = 0
        self._metadata: dict[str, Metadata] = {}

    def header(self) -> Header:
        try:
            return self._header()
        except (CutShort, LocalknobsError):
            if self._leapt:
                raise _LeapFailed from None
            raise

    def _header(self) -> Header:
        beginning = self._window.peek(0, 512)
        if not beginning.startswith(b"GGUF"):
            raise not_gguf(self._path, beginning)
        try:
            return self._rest()
        except CutShort:
            if self._leapt:
                raise
            raise BadFile(
                f"{self._path} is cut short inside its header ({self._size:,} bytes)",
                "The download is not complete. " + _AGAIN,
            ) from None

    def _rest(self) -> Header:
        self._at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise BadFile(
                f"{self._path} has GGUF version {version}, and versions 2 and 3 are known",
                "Convert the model again with a current program.",
            )
        tensor_count, key_count = self._scalar("Q"), self._scalar("Q")
        if key_count > MAX_KEYS or tensor_count > MAX_TENSORS:
            raise self._damaged(f"it claims {key_count:,} keys and {tensor_count:,} tensors")
        key_ends = []
        for _ in range(key_count):
            key = self._text(MAX_KEY_BYTES)
            value = self._value(self._scalar("I"))
            if value is not None:
                self._metadata[key] = value
            key_ends.append(self._at)
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        alignment = self._metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {str(alignment)[:80]!r}")
        start = (self._at + alignment - 1) // alignment * alignment
        self._check_ends(tensors, start, alignment)
        return Header(self._path, version, self._metadata, tensors, start, tuple(key_ends))

    def _check_ends(self, tensors: tuple[TensorInfo, ...], start: int, alignment: int) -> None:
        expected = 0
        for tensor in tensors:
            end = start + tensor.offset + tensor.size_bytes
            if end > self._size:
                raise BadFile(
                    f"{self._path} is cut short: it has {self._size:,} bytes, and {tensor.name} ends at {end:,}",
                    "The download is not complete. " + _AGAIN,
                )
            if self._leapt and tensor.offset != expected:
                raise _LeapFailed
            expected += (tensor.size_bytes + alignment - 1) // alignment * alignment

    def _tensor(self) -> TensorInfo:
        # One look at the window for all parts of it: a file has hundreds of these.
        held = min(_LONGEST_TENSOR_INFO, self._size - self._at)
        place = begin = self._window.hold(self._at, held)
        data, end = self._window.data, begin + held
        if held < 12:
            raise CutShort
        (length,) = _LENGTH(data, place)
        self._text_bytes += length
        if length > MAX_TENSOR_NAME_BYTES or self._text_bytes > MAX_TEXT_BYTES:
            raise self._damaged(f"a text claims {length:,} bytes")
        place += 8 + length
        if place + 4 > end:
            raise CutShort
        name = data[place - length : place].decode("utf-8", "replace")
        (dimensions,) = _LAYOUTS["I"].unpack_from(data, place)
        if dimensions > 4:
            raise self._damaged(f"tensor {name!r} has {dimensions} dimensions")
        layout = _TENSOR_LAYOUTS[dimensions]
        if place + 4 + layout.size > end:
            raise CutShort
        *shape, number, offset = layout.unpack_from(data, place + 4)
        self._at += place + 4 + layout.size - begin
        if number not in GGML_TYPES:
            raise Unsupported(
                f"{self._path}: tensor {name!r} has the unknown type {number}",
                "It needs a newer llama.cpp, or the file is damaged.",
            )
        type_name, block, block_bytes = GGML_TYPES[number]
        elements = 1
        for size in shape:
            elements *= size
        if shape and shape[0] % block:
            raise self._damaged(f"tensor {name!r} has rows of {shape[0]} values, which {type_name} cannot hold")
        return TensorInfo(name, tuple(shape), type_name, offset, elements // block * block_bytes)

    def _value(self, kind: int) -> Metadata | None:
        """Return a value; None when it is a text that a listing has no use for."""
        if kind == _TEXT:
            return self._text_or_none()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise self._damaged(f"a value has the unknown type {kind}")
        return self._scalar(_SCALARS[kind])

    def _array(self) -> Metadata:
        element, count = self._scalar("I"), self._scalar("Q")
        if element in _SCALARS:
            width = calcsize(_SCALARS[element])
            if count * width > self._size:
                raise self._damaged(f"an array claims {count:,} elements")
            if count <= MAX_KEPT_NUMBERS:
                return tuple(self._scalar(_SCALARS[element]) for _ in range(count))
            self._skip(count * width)
        elif element == _TEXT:
            self._texts += count
            if count * 8 > self._size or self._texts > MAX_TEXTS:
                raise self._damaged(f"an array claims {count:,} texts")
            if count <= 16:
                return tuple(self._text() for _ in range(count))
            if not (self._leaps and count >= WORTH_IT and self._leap_texts(count)):
                self._step_over_texts(count)
        else:
            raise self._damaged(f"an array has elements of type {element}")
        return ArrayInfo(count, element)

    def _leap_texts(self, count: int) -> bool:
        architecture = self._metadata.get("general.architecture")
        known = architecture if isinstance(architecture, str) else ""
        end = guess_end_of_texts(self._window, self._at, count, self._size, known)
        if end is None:
            return False
        self._leapt, self._at = True, end
        return True

    def _step_over_texts(self, count: int) -> None:
        window, left = self._window, count
        while left:
            place = window.hold(self._at, 8)
            base, data, last = window.start, window.data, len(window.data) - 8
            while left and place <= last:
                place += 8 + _LENGTH(data, place)[0]
                left -= 1
            self._at = base + place
            if self._at > self._size:
                raise CutShort

    def _text(self, limit: int = MAX_TEXT_BYTES) -> str:
        length = self._scalar("Q")
        self._text_bytes += length
        most = MAX_SKIMMED_BYTES if self._skim else MAX_TEXT_BYTES
        if length > min(self._size, limit) or self._text_bytes > most:
            raise self._damaged(f"a text claims {length:,} bytes")
        place = self._window.hold(self._at, length)
        self._at += length
        return self._window.data[place : place + length].decode("utf-8", "replace")

    def _text_or_none(self) -> str | None:
        if self._skim:
            place = self._window.hold(self._at, 8)
            (length,) = _LENGTH(self._window.data, place)
            if length > MAX_SKIMMED_TEXT:
                self._skip(8 + length)
                return None
        return self._text()

    def _scalar(self, code: str) -> int:
        layout = _LAYOUTS[code]
        place = self._window.hold(self._at, layout.size)
        self._at += layout.size
        return layout.unpack_from(self._window.data, place)[0]  # type: ignore[no-any-return]

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > self._size:
            raise CutShort

    def _damaged(self, why: str) -> BadFile:
        return BadFile(f"{self._path} is damaged: {why}", _AGAIN)


def not_gguf(path: Path, beginning: bytes) -> BadFile:
    """Return the error that says what a file is which is no GGUF.

    Args:
        path: The file.
        beginning: Its first 512 bytes.
    """
    lower = beginning.lstrip().lower()
    if not beginning:
        return BadFile(f"{path} is empty", _AGAIN)
    if lower.startswith((b"<!doctype", b"<html")):
        return BadFile(f"{path} is a web page, not a model", "The download link was wrong or needs a log-in.")
    if beginning.startswith(b"version https://git-lfs"):
        return BadFile(f"{path} is a Git LFS pointer, not the model", "Fetch the real file: git lfs pull.")
    if beginning.startswith((b"ggml", b"lmgg", b"tjgg", b"fmgg")):
        return BadFile(f"{path} is in the old GGML format from before GGUF", "Find or convert a GGUF of the model.")
    checkpoint = path.suffix in (".safetensors", ".bin", ".pt", ".pth")
    if checkpoint or beginning.startswith(b"PK") or b"__metadata__" in beginning:
        return BadFile(f"{path} is a checkpoint, not a GGUF file", "Convert it to GGUF first.")
    return BadFile(f"{path} is not a GGUF file", "Give a file that ends in .gguf.")
