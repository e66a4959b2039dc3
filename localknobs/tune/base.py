"""What is trained: a checkpoint, or the bytes of a GGUF file; and by which method."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localknobs.convert.checkpoint import open_checkpoint, read_json
from localknobs.convert.outline import outline_of
from localknobs.convert.quantize import QuantizeConfig, QuantizePlan, plan_quantize
from localknobs.errors import BadFile, BadValue, LocalknobsError, MissingExtra, NotFound, Unsupported
from localknobs.gguf_info import read_headers
from localknobs.hardware import graphics_cards
from localknobs.knobs import Value
from localknobs.ledger import read_card
from localknobs.paths import built_in_checkpoint, built_in_model
from localknobs.tune.modules import Modules, find_modules

NF4 = "NF4"
_NF4_BITS = 4.5
"""Of a weight, its scales included."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_CONFIG_NUMBERS = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
}  # fmt: skip
"""Numbers of a config that a GGUF file has too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What is trained.

    Args:
        path: As it was named: a folder, or a GGUF file.
        method: `lora`, `qlora` or `full`.
        gguf: File whose bytes are trained over as they are; None where there is none, or not yet.
        checkpoint: Folder with config and tokenizer; None where the GGUF file tells them itself.
        quantized: What the checkpoint is quantized to first, `NF4` by bitsandbytes while it is loaded; empty for
            nothing.
        quantizing: How that is done; None for NF4 and where nothing is quantized.
        modules: What an adapter goes beside.
        settings: Numbers of the config.
        parameters: Values of the model.
        stored_bytes: What its weights take while they are frozen; 0 where they take what `parameters` do.
        notes: What the user should know.
    """

    path: Path
    method: str
    gguf: Path | None = None
    checkpoint: Path | None = None
    quantized: str = ""
    quantizing: QuantizePlan | None = None
    modules: Modules
    settings: Mapping[str, Any]
    parameters: int
    stored_bytes: int = 0
    notes: tuple[str, ...] = ()


def find_base(path: Path, checkpoint: Path | None, values: Mapping[str, Value], run_folder: Path) -> Base:
    """Return what is trained and how, from what was named and asked for.

    Args:
        path: A checkpoint's folder, or a GGUF file.
        checkpoint: Folder with the config and the tokenizer of a GGUF file; None to look for it.
        values: Of the fine-tuning knobs.
        run_folder: Where a base that is quantized first goes.

    Raises:
        NotFound, BadFile: it is missing or damaged.
        BadValue: the method does not go with it, or there are no such modules.
        MissingExtra, Unsupported: NF4 without bitsandbytes or a card for it, or an architecture nobody knows here.
    """
    method, quantized = str(values["method"]), str(values["quantize_base"])
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _gguf_base(path, checkpoint, method, quantized, str(values["lora_targets"]))
    if checkpoint:
        raise BadValue(f"{path} is a checkpoint already", "--checkpoint goes with a GGUF file.")
    if method == "auto":
        method = "lora" if quantized == "auto" else "qlora"
    if method != "qlora" and quantized != "auto":
        raise BadValue(f"Only the base of QLoRA is quantized, and --method is {method}", "Give --method qlora.")
    return _checkpoint_base(path, method, quantized, str(values["lora_targets"]), run_folder)


def _checkpoint_base(folder: Path, method: str, quantized: str, targets: str, run_folder: Path) -> Base:
    opened = open_checkpoint(folder)
    try:
        modules = find_modules(opened, targets)
        settings = opened.config
        parameters = sum(opened.info(name).elements for name in opened.names())
        linear = sum(rows * columns for rows, columns in find_modules(opened, "all-linear").shapes)
    finally:
        opened.close()
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise NotFound(f"{folder} has no tokenizer", "Fetch the whole checkpoint, with tokenizer.json.")
    stored, plan, gguf = 0, None, None
    if method == "qlora":
        refusal = _refusal_of_nf4() if quantized in ("auto", NF4) else None
        if quantized == "auto":
            quantized = "Q4_K_M" if refusal else NF4
        if quantized == NF4:
            if refusal:
                raise refusal
            stored = int(linear * _NF4_BITS / 8) + 2 * (parameters - linear)
        else:
            _no_experts(folder.name, opened.names())
            gguf = run_folder / f"base-{quantized}.gguf"
            plan = plan_quantize(QuantizeConfig(source=folder, outputs=((quantized, gguf),)))
            stored = plan.files[0].size_bytes
    return Base(
        path=folder, method=method, gguf=gguf, checkpoint=folder, quantized=quantized if method == "qlora" else "",
        quantizing=plan, modules=modules, settings=settings, parameters=parameters, stored_bytes=stored,
    )  # fmt: skip


def _gguf_base(path: Path, checkpoint: Path | None, method: str, quantized: str, targets: str) -> Base:
    if method not in ("auto", "qlora"):
        raise BadValue(
            f"{path} is a GGUF file, and its weights stay as they are: --method {method} cannot train it",
            "Leave --method out (QLoRA over its bytes), or name the checkpoint it was made of.",
        )
    if quantized != "auto":
        raise BadValue(f"{path} is a GGUF file and keeps its types", "--quantize-base goes with a checkpoint.")
    headers = read_headers(path)
    _no_experts(path.name, (tensor.name for one in headers for tensor in one.tensors))
    outline = outline_of(headers)
    embedding = next((tensor for one in headers for tensor in one.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise BadFile(f"{path} has no token embeddings", "Fetch it again.")
    settings = {name: headers[0].number(key) for name, key in _CONFIG_NUMBERS.items()}
    settings |= {"vocab_size": embedding.shape[1], "max_position_embeddings": headers[0].context_trained}
    if checkpoint:
        _check_checkpoint(checkpoint, path, settings)
    else:
        checkpoint = next((folder for folder in _likely(path) if _is_of(folder, settings)), None)
    told = f"the checkpoint {checkpoint}" if checkpoint else "the file itself"
    return Base(
        path=path, method="qlora", gguf=path, checkpoint=checkpoint,
        modules=find_modules(outline, targets), settings=settings,
        parameters=sum(one.parameters for one in headers), stored_bytes=sum(one.tensor_bytes for one in headers),
        notes=(f"Config and tokenizer are taken from {told}.",),
    )  # fmt: skip


def _no_experts(name: str, names: Iterable[str]) -> None:
    """Refuse mixtures before any work: a file holds the experts of a layer in one tensor."""
    if any("_exps." in tensor or ".experts." in tensor for tensor in names):
        raise Unsupported(
            f"{name} is a mixture of experts, which cannot be trained over a GGUF file yet",
            "Train over the checkpoint: --method lora.",
        )


def _check_checkpoint(folder: Path, file: Path, settings: Mapping[str, int]) -> None:
    config = read_json(folder / "config.json") if folder.is_dir() else None
    if config is None or not any((folder / name).is_file() for name in _TOKENIZERS):
        raise NotFound(f"{folder} is no checkpoint with a config and a tokenizer", "Give its folder.")
    for name, value in settings.items():
        if name != "max_position_embeddings" and value and config.get(name) != value:
            raise BadValue(
                f"{folder} has {config.get(name)} as {name}, and {file.name} has {value}",
                "Give the folder of the checkpoint that the file was made of, or leave --checkpoint out.",
            )


def _is_of(folder: Path, settings: Mapping[str, int]) -> bool:
    try:
        _check_checkpoint(folder, folder, settings)
    except LocalknobsError:
        return False
    return True


def _likely(file: Path) -> list[Path]:
    """Return where the checkpoint of a GGUF file may lie: beside it, and where its card says it was made of."""
    places = [file.parent]
    if file.resolve() == built_in_model().resolve():
        places.append(built_in_checkpoint())
    try:
        places += [Path(source.path) for source in read_card(file).sources if Path(source.path).is_dir()]
    except LocalknobsError:
        pass  # most files have no card
    return places


def _refusal_of_nf4() -> LocalknobsError | None:
    """Return why there is no NF4 on this machine; None where there is."""
    if not any(card.vendor == "nvidia" for card in graphics_cards()):
        return Unsupported(
            "NF4 takes a graphics card by NVIDIA", "Take --quantize-base Q4_K_M, which trains on any machine."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        return MissingExtra(
            "NF4 takes bitsandbytes, not installed here", "pip install bitsandbytes, or take --quantize-base Q4_K_M."
        )
    return None
