"""Everything that can be checked before a training starts, without torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localknobs.convert.checkpoint import open_checkpoint
from localknobs.convert.families import architecture_of
from localknobs.errors import BadFile, BadValue, MissingExtra, NotEnough, NotFound
from localknobs.figures import KINDS
from localknobs.hardware import available_memory_bytes, graphics_cards
from localknobs.knobs import Value
from localknobs.tune.config import Recipe, TuneConfig, choose
from localknobs.tune.examples import Example, read_examples, split
from localknobs.tune.modules import Modules, find_modules
from localknobs.tune.price import Price, price
from localknobs.units import size_text

_NEEDED = ("torch", "transformers", "peft", "safetensors")
STATE = "training.pt"
"""Name of the file in the run's folder that a stopped run is taken up from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunePlan:
    """A checked training.

    Args:
        config: What was asked.
        values: Of every fine-tuning knob.
        recipe: The numbers, those that were chosen included.
        modules: What gets an adapter.
        price: What it takes.
        learn, held_out: The examples.
        general: What shows forgetting by its loss; empty for none.
        duplicates: Examples that say the same as an earlier one.
        run_folder: Where a stopped run leaves its state.
        fingerprint: Of everything that shapes the result.
        notes: What the user should know.
    """

    config: TuneConfig
    values: dict[str, Value]
    recipe: Recipe
    modules: Modules
    price: Price
    learn: tuple[Example, ...]
    held_out: tuple[Example, ...]
    general: tuple[Example, ...]
    duplicates: int
    run_folder: Path
    fingerprint: str
    notes: tuple[str, ...]


def plan_finetune(config: TuneConfig) -> TunePlan:
    """Check what can be checked, and choose what was left to the program.

    Raises:
        MissingExtra: torch, transformers or peft is not installed.
        NotFound, BadFile: base or data are missing or damaged, a line of the data is wrong.
        BadValue: unknown modules, or an output that exists.
        NotEnough: the training does not fit into memory.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"Fine-tuning takes {', '.join(missing)}, not installed here", "pip install 'localknobs[train]'"
        )
    _check_output(config.output)
    if config.picture and config.picture.suffix.lower() not in KINDS:
        raise BadValue(f"{config.picture} is no picture's name", f"--curves writes {' or '.join(KINDS)}.")
    values = config.values()
    with_checkpoint = open_checkpoint(config.base)
    try:
        modules = find_modules(with_checkpoint, str(values["lora_targets"]))
        settings = with_checkpoint.config
        parameters = sum(with_checkpoint.info(name).elements for name in with_checkpoint.names())
    finally:
        with_checkpoint.close()
    if not (config.base / "tokenizer.json").is_file() and not (config.base / "tokenizer.model").is_file():
        raise NotFound(f"{config.base} has no tokenizer", "Fetch the whole checkpoint, with tokenizer.json.")
    examples = read_examples(config.data)
    learn, held_out = split(examples, 0.0 if config.held_out else float(_number(values["held_out_share"])))
    if config.held_out:
        held_out = read_examples(config.held_out)
        known = {example.key for example in held_out}
        learn = [example for example in learn if example.key not in known]
    if not learn:
        raise BadFile(f"{config.data} leaves no example to learn from", "Give more examples, or --held-out-share 0.")
    notes = [] if held_out else ["No example is held out: overfitting cannot be seen, and there is no early stop."]
    recipe = choose(
        values, examples=len(learn), width=int(settings.get("hidden_size", 0)),
        context=int(settings.get("max_position_embeddings", 0)),
    )  # fmt: skip
    trained_length = int(settings.get("max_position_embeddings", 0))
    if trained_length and recipe.length > trained_length:
        raise BadValue(
            f"Examples of {recipe.length:,} tokens are longer than the model's {trained_length:,}", "Give --seq-length."
        )
    longest = min(recipe.length, max(example.most_tokens for example in (*learn, *held_out)))
    cost = _price(longest, recipe, values, modules, parameters, settings)
    general = tuple(read_examples(config.general)) if config.general else ()
    run_folder = config.output.with_name(f".{config.output.name}.training")
    fingerprint = _fingerprint(config, values, (*learn, *held_out), general, settings)
    return TunePlan(
        config=config, values=values, recipe=recipe, modules=modules, price=cost, learn=tuple(learn),
        held_out=tuple(held_out), general=general, duplicates=_duplicates(examples), run_folder=run_folder,
        fingerprint=fingerprint, notes=tuple(notes),
    )  # fmt: skip


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _check_output(output: Path) -> None:
    if output.suffix.lower() in (".gguf", ".safetensors"):
        raise BadValue(f"{output} is no name for a folder", "An adapter is a folder, with a GGUF file in it: -o NAME")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BadValue(f"{output} exists", "Name another folder with -o, or remove it first.")


def _price(
    longest: int,
    recipe: Recipe,
    values: dict[str, Value],
    modules: Modules,
    parameters: int,
    settings: dict[str, object],
) -> Price:
    cards = graphics_cards()
    nvidia = [card for card in cards if card.vendor == "nvidia"]
    available = nvidia[0].memory_bytes if nvidia else available_memory_bytes()

    def setting(name: str) -> int:
        value = settings.get(name)
        return value if isinstance(value, int) else 0

    cost = price(
        parameters=parameters, shapes=modules.shapes, rank=recipe.rank,
        tokens=int(_number(values["train_batch"])) * longest, layers=modules.layers, width=setting("hidden_size"),
        vocabulary=setting("vocab_size"), item_bytes=2 if nvidia else 4, available=available,
    )  # fmt: skip
    if available and cost.total > available and cost.base + cost.adapter > available:
        raise NotEnough(
            f"Training takes at least {size_text(cost.base + cost.adapter)} for the weights alone, "
            f"and {size_text(available)} of memory is there",
            "Take a smaller base, or a lower rank.", needed_bytes=cost.total, available_bytes=available,
        )  # fmt: skip
    if available and cost.total > available:
        raise NotEnough(
            f"Training takes up to {size_text(cost.total)}, and {size_text(available)} of memory is there",
            "Make batches smaller (--batch-size 1 --accumulate 8) or examples shorter (--seq-length 256).",
            needed_bytes=cost.total, available_bytes=available,
        )  # fmt: skip
    return cost


def _duplicates(examples: Sequence[Example]) -> int:
    return len(examples) - len({example.key for example in examples})


def _fingerprint(
    config: TuneConfig,
    values: dict[str, Value],
    examples: Sequence[Example],
    general: Sequence[Example],
    settings: dict[str, object],
) -> str:
    """Return what tells whether a stopped run is this one; the base by its config and the size of its files."""
    files = sorted(
        (file.name, file.stat().st_size) for file in config.base.iterdir() if file.suffix in (".safetensors", ".bin")
    )
    shaping = {name: value for name, value in values.items() if name != "sample_steps"}
    said = [
        shaping, [example.key for example in examples], [example.key for example in general], settings, files,
        architecture_of(settings), config.answers,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
