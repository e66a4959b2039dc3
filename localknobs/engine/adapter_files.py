"""Files that act beside a model: LoRA adapters and control vectors, found by name and checked before C sees them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadFile, BadValue, Unsupported
from localknobs.gguf_info import Header, read_header
from localknobs.gguf_info.base_mark import BASE_MARK, norms_mark
from localknobs.gguf_info.checks import NOT_A_MODEL
from localknobs.ledger import fingerprint
from localknobs.library import find_model
from localknobs.paths import models_folder, user_path

AdapterKind = Literal["adapter", "control vector"]
KNOB_OF: dict[AdapterKind, str] = {"adapter": "lora", "control vector": "control_vector"}
"""The knob that names files of each kind."""
_DIRECTION = re.compile(r"direction\.(\d{1,6})")


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A file that acts beside a model, and how strongly.

    Args:
        kind: What it is.
        header: Of the file.
        scale: Factor on top of the file's own scale; 1 is as it was trained.
        mark: Of its content.
    """

    kind: AdapterKind
    header: Header
    scale: float
    mark: str

    @property
    def path(self) -> Path:
        """The file."""
        return self.header.path


def path_and_scale(text: str) -> tuple[str, float]:
    """Return what `FILE` or `FILE:SCALE` names; a file whose own name ends like that comes first.

    Raises:
        BadValue: no name, or a scale that is not finite.
    """
    head, colon, tail = text.rpartition(":")
    if colon and head and not user_path(text).exists():
        try:
            scale = float(tail)
        except ValueError:
            return text, 1.0
        if not math.isfinite(scale):
            raise BadValue(f"The scale of an adapter cannot be {tail}", "1 is as it was trained, 0.5 half of it.")
        return head, scale
    if not text:
        raise BadValue("An adapter needs a name", "Such as --lora my-adapter.gguf or --lora my-adapter.gguf:0.5")
    return text, 1.0


def text_of(name: str, scale: float) -> str:
    """Return a file with its scale as `path_and_scale` reads it."""
    return f"{name}:{scale:.9g}"


def find_adapter(name: str, kind: AdapterKind) -> Path:
    """Return the GGUF file that a name means.

    Args:
        name: A file, a folder that holds one (`localknobs finetune` writes such), or a name of `localknobs ls`.
        kind: What is looked for.

    Raises:
        NotFound: there is none; the hint names the nearest.
        BadFile: a folder without a GGUF adapter.
    """
    for given in (user_path(name), models_folder() / name):
        if given.is_file():
            return given
        if given.is_dir():
            return _inside(given, kind)
    return find_model(name)


def _inside(folder: Path, kind: AdapterKind) -> Path:
    found = sorted(file for file in folder.glob("*.gguf") if file.is_file())
    named = [file for file in found if file.stem == folder.resolve().name] or found
    if len(named) == 1:
        return named[0]
    if found:
        raise BadValue(f"{folder} holds {len(found)} GGUF files", f"Name one: {', '.join(map(str, found[:8]))}")
    if (folder / "adapter_config.json").is_file():
        raise BadFile(
            f"{folder} is an adapter of peft without its GGUF form",
            f"Make it: localknobs convert {folder} --base FOLDER_OF_ITS_BASE",
        )
    raise BadFile(f"{folder} is a folder without a GGUF {kind}", "Name the file.")


def read_adapters(settings: LoadSettings) -> tuple[AdapterFile, ...]:
    """Return the adapters and control vectors that settings name, in their order.

    Raises:
        NotFound, BadFile, BadValue, Unsupported: one is missing, damaged, or something else.
    """
    found = []
    wanted: tuple[tuple[AdapterKind, Sequence[str]], ...] = (
        ("adapter", settings.lora), ("control vector", settings.control_vector),
    )  # fmt: skip
    for kind, texts in wanted:
        for text in texts:
            name, scale = path_and_scale(text)
            header = read_header(find_adapter(name, kind))
            if header.kind != kind:
                raise _wrong_kind(header, kind)
            try:
                found.append(AdapterFile(kind, header, scale, _mark(header.path)))
            except OSError as error:
                raise BadFile(f"{header.path} cannot be read: {error.strerror or error}", "Check the disk.") from None
    return tuple(found)


def _mark(path: Path) -> str:
    status = path.stat()
    return _mark_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _mark_of(path: Path, _size: int, _changed: int) -> str:
    return fingerprint(path)  # up to 64 MiB are read for it: not once for every step of a slider


def _wrong_kind(header: Header, kind: AdapterKind) -> BadFile:
    hints = {
        "adapter": "It goes with --lora.",
        "control vector": "It goes with --control-vector.",
    }
    other = "Make one of an adapter of peft: localknobs convert FOLDER --base BASE"
    found, wanted = NOT_A_MODEL.get(header.kind, "a model"), NOT_A_MODEL[kind]
    return BadFile(f"{header.path} is {found}, not {wanted}", hints.get(header.kind, other))


def check_adapters(files: Sequence[AdapterFile], model: Header, settings: LoadSettings) -> tuple[str, ...]:
    """Refuse what does not belong to a model; return what the user should know of the others.

    Args:
        files: What shall act beside the model.
        model: Its header; of a split model, of the first shard.
        settings: `lora_any_base` lets adapters of another base of the same shapes pass; `control_vector_layers` is
            checked too.

    Raises:
        Unsupported: another architecture, other shapes, another base; with the reason.
        BadValue: the range of layers is none.
    """
    layer_range(settings, model)
    notes = []
    own: str | None = None
    for file in files:
        _check_architecture(file, model)
        if file.kind == "adapter":
            _check_shapes(file.header, model)
            if "adapter.alora.invocation_tokens" in file.header.metadata:
                notes.append(f"{file.path.name} was trained to act from certain tokens on; here it acts on everything.")
        else:
            _check_directions(file.header, model)
        said = file.header.text(BASE_MARK)
        if not said:
            notes.append(f"{file.path.name} does not say on which model it was trained{_named_base(file.header)}.")
            continue
        own = norms_mark(model) if own is None else own
        if own and said != own:
            name = _named_base(file.header)
            if settings.lora_any_base != "on":
                raise Unsupported(
                    f"{file.path} was trained on another base than {model.path.name}{name}: the shapes are the same, "
                    "the weights are not",
                    "Use it on its own base or a quantization of that. --lora-any-base takes it all the same.",
                )
            notes.append(f"{file.path.name} was trained on another base{name}, and is used all the same.")
    return tuple(notes)


def layer_range(settings: LoadSettings, model: Header) -> tuple[int, int]:
    """Return the first and the last layer that control vectors act on.

    Raises:
        BadValue: it is no range of this model's layers.
    """
    layers = model.number("block_count")
    if not settings.control_vector_layers.strip():
        return 1, max(1, layers)
    words = settings.control_vector_layers.replace(",", " ").split()
    if len(words) == 2 and all(word.isascii() and word.isdigit() for word in words):
        first, last = (int(word) for word in words)
        if 1 <= first <= last <= layers:
            return first, last
    raise BadValue(
        "control_vector_layers (--control-vector-layer-range) cannot be "
        f"{settings.control_vector_layers!r}", f"It takes the first and the last layer, such as 1 {layers}.",
    )  # fmt: skip


def _named_base(header: Header) -> str:
    name = header.text("general.base_model.0.name") or header.text("general.base_model.0.repo_url")
    return f" (it names {name})" if name else ""


def _check_architecture(file: AdapterFile, model: Header) -> None:
    header = file.header
    named = header.text("controlvector.model_hint") if file.kind == "control vector" else header.architecture
    if named != model.architecture and (named or file.kind == "adapter"):
        raise Unsupported(
            f"{file.path} is for the architecture {named or '(none)'}, and {model.path.name} is {model.architecture}",
            "An adapter works on the model it was trained on.",
        )


def _check_shapes(adapter: Header, model: Header) -> None:
    """Refuse an adapter whose factors do not fit the model's tensors."""
    if (kind := adapter.text("adapter.type")) != "lora":
        raise Unsupported(f"{adapter.path} is an adapter of the kind {kind or '(none)'}", "Only lora can be used.")
    shapes = {tensor.name: tensor.shape for tensor in model.tensors} if model.shards == 1 else {}
    factors = {tensor.name: tensor.shape for tensor in adapter.tensors}
    pairs = {name[: -len(".lora_a")] for name in factors if name.endswith(".lora_a")}
    pairs |= {name[: -len(".lora_b")] for name in factors if name.endswith(".lora_b")}
    if not pairs:
        raise BadFile(f"{adapter.path} holds no pairs of low rank", "It is no whole adapter; make it again.")
    for name in sorted(pairs):
        a, b = factors.get(f"{name}.lora_a", ()), factors.get(f"{name}.lora_b", ())
        if len(a) < 2 or len(b) < 2:
            raise BadFile(f"{adapter.path} has half a pair for {name}", "Make or download it again.")
        if model.shards > 1:
            continue  # llama.cpp itself looks: the first shard's header does not list all
        if name not in shapes:
            raise Unsupported(
                f"{adapter.path} changes {name}, which {model.path.name} does not have", "It is of another model."
            )
        wanted, has = shapes[name][:2], (a[0], b[1])
        if name == "token_embd.weight":  # rows of embeddings are looked up: its factors lie the other way round
            has = (b[1], a[1])
        if has != wanted:
            raise Unsupported(
                f"{adapter.path} is for a {name} of {has[0]} x {has[1]}, and in {model.path.name} it is "
                f"{' x '.join(map(str, wanted))}",
                "It was trained on a model of another size.",
            )


def _check_directions(vector: Header, model: Header) -> None:
    """Refuse a control vector of another width, or of more layers."""
    width, layers = model.number("embedding_length"), model.number("block_count")
    directions = 0
    for tensor in vector.tensors:
        if not (found := _DIRECTION.fullmatch(tensor.name)):
            continue
        directions += 1
        if tensor.type_name != "F32" or len(tensor.shape) != 1:
            raise BadFile(f"{vector.path}: {tensor.name} is no list of 32-bit numbers", "Make or download it again.")
        if tensor.shape[0] != width:
            raise Unsupported(
                f"{vector.path} is for a model {tensor.shape[0]:,} wide, and {model.path.name} is {width:,} wide",
                "A control vector works on the model it was made with.",
            )
        if not 1 <= int(found[1]) <= layers:
            raise Unsupported(
                f"{vector.path} has a direction for layer {int(found[1])}, and {model.path.name} has {layers} layers",
                "A control vector works on the model it was made with.",
            )
    if not directions:
        raise BadFile(f"{vector.path} holds no direction", "It is no whole control vector. Make or download it again.")


def direction_layer(name: str) -> int:
    """Return the layer that a tensor of a control vector is for; 0 for another tensor."""
    found = _DIRECTION.fullmatch(name)
    return int(found[1]) if found else 0
