"""The keys of a GGUF file in their order, and those that say what a model is and where it comes from.

The facts (name, size, licence, base models, sampling advice) are found by the `gguf` package, which
reads them from the model card, the configuration and the folder's name for llama.cpp's converter too.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localknobs.convert.checkpoint import read_json
from localknobs.convert.gguf_header import RawKey, number_key, text_key, texts_key
from localknobs.errors import BadFile
from localknobs.library.names import checkpoint_name

_F32, _BOOL, _ARRAY, _I32 = 6, 7, 9, 5
QUANTIZATION_VERSION = 2
"""Of ggml's formats since 2023 (ggml.h: GGML_QNT_VERSION)."""

_SAMPLING = {
    "sequence": "text", "top_k": "i32", "top_p": "f32", "min_p": "f32", "xtc_probability": "f32",
    "xtc_threshold": "f32", "temp": "f32", "penalty_last_n": "i32", "penalty_repeat": "f32",
    "mirostat": "i32", "mirostat_tau": "f32", "mirostat_eta": "f32",
}  # fmt: skip
_ORIGIN = (
    "name", "author", "version", "organization", "finetune", "basename", "description", "quantized_by", "size_label",
    "license", "license_name", "license_link", "url", "doi", "uuid", "repo_url", "source_url", "source_doi",
    "source_uuid", "source_repo_url",
)  # fmt: skip
_ORIGIN_KEYS = {
    "license_name": "license.name", "license_link": "license.link", "source_url": "source.url",
    "source_doi": "source.doi", "source_uuid": "source.uuid", "source_repo_url": "source.repo_url",
}  # fmt: skip
_PARENT = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")


class Sheet:
    """Keys in the order in which they were first set; setting one again replaces its value.

    Args:
        architecture: llama.cpp's name of the model's build; `{arch}` in a key stands for it.
    """

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self._keys: dict[str, RawKey] = {}
        self.text("general.architecture", architecture)

    def copy(self) -> Sheet:
        """Return another sheet with the same keys."""
        other = Sheet(self.architecture)
        other._keys = dict(self._keys)
        return other

    def keys(self) -> list[RawKey]:
        """Return all keys, as `header_bytes` takes them."""
        return list(self._keys.values())

    def add(self, key: RawKey) -> None:
        """Set a key that is packed already."""
        self._set(key)

    def text(self, name: str, value: str) -> None:
        """Set a text; an empty one is left out, as llama.cpp's converter does."""
        if value:
            self._set(text_key(self._name(name), value))

    def u32(self, name: str, value: int) -> None:
        """Set an unsigned number."""
        self._set(number_key(self._name(name), int(value)))

    def i32(self, name: str, value: int) -> None:
        """Set a signed number."""
        self._plain(name, _I32, struct.pack("<i", int(value)))

    def f32(self, name: str, value: float) -> None:
        """Set a number with a fraction."""
        self._plain(name, _F32, struct.pack("<f", float(value)))

    def flag(self, name: str, value: bool) -> None:
        """Set a yes or no."""
        self._plain(name, _BOOL, struct.pack("<?", bool(value)))

    def texts(self, name: str, values: Sequence[str]) -> None:
        """Set a list of texts; an empty one is left out."""
        if values:
            self._set(texts_key(self._name(name), values))

    def numbers(self, name: str, values: Sequence[int]) -> None:
        """Set a list of signed numbers; an empty one is left out."""
        self._array(name, _I32, f"<{len(values)}i", values)

    def fractions(self, name: str, values: Sequence[float]) -> None:
        """Set a list of numbers with fractions; an empty one is left out."""
        self._array(name, _F32, f"<{len(values)}f", values)

    def flags(self, name: str, values: Sequence[bool]) -> None:
        """Set a list of yes and no; an empty one is left out."""
        self._array(name, _BOOL, f"<{len(values)}?", values)

    def _name(self, name: str) -> str:
        return name.replace("{arch}", self.architecture)

    def _set(self, key: RawKey) -> None:
        self._keys[key.name] = key

    def _plain(self, name: str, kind: int, data: bytes) -> None:
        name = self._name(name)
        self._set(RawKey(name, _key_text(name) + struct.pack("<I", kind) + data))

    def _array(self, name: str, kind: int, layout: str, values: Sequence[Any]) -> None:
        if values:
            self._plain(name, _ARRAY, struct.pack("<IQ", kind, len(values)) + struct.pack(layout, *values))


def _key_text(name: str) -> bytes:
    data = name.encode()
    return struct.pack("<Q", len(data)) + data


def read_json_if_there(file: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint; an absent file is an empty one.

    Raises:
        BadFile: it is no JSON object.
    """
    return read_json(file) if file.is_file() else {}


def add_origin(sheet: Sheet, folder: Path, counts: tuple[int, int, int, int], name: str | None = None) -> None:
    """Set what is known about a model besides its numbers: `general.*`.

    Args:
        sheet: Where to.
        folder: The checkpoint, with its `README.md`, `config.json` and `generation_config.json`.
        counts: Parameters: all, those that every token uses, those of one expert in each layer; experts.
        name: Name to use instead of the one that is found.

    Raises:
        BadFile: the model card's front matter is no YAML.
    """
    import gguf  # 75 ms

    logging.getLogger("metadata").setLevel(logging.ERROR)
    try:
        known = gguf.Metadata.load(None, folder, name, counts[0])
    except Exception as error:  # YAML's, of which gguf alone knows, and those of cards with the wrong kind of value
        raise BadFile(
            f"The head of {folder / 'README.md'} cannot be read: {' '.join(str(error).split())}", "Mend or remove it."
        ) from None
    advice = _generation_advice(folder)
    if known.sampling_penalty_repeat is None:  # gguf 0.17 to 0.19 do not look for it under its usual name
        known.sampling_penalty_repeat = advice.get("repetition_penalty")
    if not known.name or known.name.lower() == folder.name.lower() != checkpoint_name(folder).lower():  # a hash is none
        known.name = checkpoint_name(folder)
    if known.size_label is None and counts[0] > 0:
        known.size_label = gguf.size_label(*counts)
    sheet.text("general.type", "model")
    for field, kind in _SAMPLING.items():
        if (value := getattr(known, f"sampling_{field}")) is not None:
            getattr(sheet, kind)(f"general.sampling.{field}", value)
    for field in _ORIGIN:
        if (value := getattr(known, field)) is not None:
            text = ",".join(map(_as_text, value)) if isinstance(value, list) else _as_text(value)
            sheet.text(f"general.{_ORIGIN_KEYS.get(field, field)}", text)
    for kind, parents in (("base_model", known.base_models), ("dataset", known.datasets)):
        if parents is not None:
            sheet.u32(f"general.{kind}.count", len(parents))
            for number, parent in enumerate(parents):
                for field in _PARENT:
                    if field in parent:
                        sheet.text(f"general.{kind}.{number}.{field}", _as_text(parent[field]))
    sheet.texts("general.tags", [*map(_as_text, known.tags or [])])
    sheet.texts("general.languages", [*map(_as_text, known.languages or [])])


def _as_text(value: Any) -> str:
    """Return a value of a card as text: YAML takes Norwegian, `no`, for a refusal, and versions for numbers."""
    return "no" if value is False else str(value)


def _generation_advice(folder: Path) -> dict[str, Any]:
    try:
        return read_json_if_there(folder / "generation_config.json")
    except BadFile:  # advice only, and some published ones are broken
        return {}
