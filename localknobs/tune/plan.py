"""Everything that can be checked before a training starts, without torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localknobs.errors import BadFile, BadValue, MissingExtra, NotEnough
from localknobs.figures import KINDS
from localknobs.hardware import available_memory_bytes, graphics_cards
from localknobs.knobs import Value
from localknobs.ledger import fingerprint as fingerprint_of
from localknobs.tune.base import Base, find_base
from localknobs.tune.config import Recipe, TuneConfig, choose
from localknobs.tune.examples import Example, apart_from, read_examples, split
from localknobs.tune.price import TRAINED_BYTES, Price, price
from localknobs.tune.ranks import count_here
from localknobs.tune.rehearsal import CHAT_LENGTH, MOST_PLACES, NOTED_BYTES, TEXT_LENGTH
from localknobs.units import size_text

_NEEDED = ("torch", "transformers", "peft", "accelerate", "safetensors")
_SCRATCH_VALUES, _SCRATCH_BYTES = 2**24, 4 + 2
"""Most weights of a GGUF file that are numbers at once, and the bytes of each: in float32, and in the card's type."""
STATE = "training.pt"
"""Name of the file in the run's folder that a stopped run is taken up from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunePlan:
    """A checked training.

    Args:
        config: What was asked.
        values: Of every fine-tuning knob.
        recipe: The numbers, those that were chosen included.
        base: What is trained, by which method.
        price: What it takes.
        learn, held_out: The examples.
        general: What shows forgetting by its loss; empty for none.
        rehearsal: What is read beside the new, against forgetting; empty for none.
        duplicates: Examples that say the same as an earlier one.
        run_folder: Where a stopped run leaves its state.
        fingerprint: Of everything that shapes the result.
        notes: What the user should know.
    """

    config: TuneConfig
    values: dict[str, Value]
    recipe: Recipe
    base: Base
    price: Price
    learn: tuple[Example, ...]
    held_out: tuple[Example, ...]
    general: tuple[Example, ...]
    rehearsal: tuple[Example, ...]
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
    run_folder = config.output.with_name(f".{config.output.name}.training")
    base = find_base(config.base, config.checkpoint, values, run_folder)
    settings = base.settings
    examples = read_examples(config.data)
    learn, held_out = split(examples, 0.0 if config.held_out else _number(values["held_out_share"]))
    if config.held_out:
        held_out = read_examples(config.held_out)
        known = {example.key for example in held_out}
        learn = [example for example in learn if example.key not in known]
    if not learn:
        raise BadFile(f"{config.data} leaves no example to learn from", "Give more examples, or --held-out-share 0.")
    notes = list(base.notes)
    if not held_out:
        notes.append("No example is held out: overfitting cannot be seen, and there is no early stop.")
    trained_length = int(settings.get("max_position_embeddings", 0))
    recipe = choose(values, examples=len(learn), width=int(settings.get("hidden_size", 0)), context=trained_length)
    if trained_length and recipe.length > trained_length:
        raise BadValue(
            f"Examples of {recipe.length:,} tokens are longer than the model's {trained_length:,}", "Give --seq-length."
        )
    general = read_examples(config.general) if config.general else []
    rehearsal = _rehearsal(config, values, (*learn, *held_out, *general), notes)
    longest = min(recipe.length, max(example.most_tokens for example in (*learn, *held_out)))
    cost = _price(longest, recipe, values, base, rehearsal)
    notes += _told(cost, int(_number(values["train_batch"])))
    fingerprint = _fingerprint(config, values, (learn, held_out, general, rehearsal), base)
    return TunePlan(
        config=config, values=values, recipe=recipe, base=base, price=cost, learn=tuple(learn),
        held_out=tuple(held_out), general=tuple(general), rehearsal=tuple(rehearsal),
        duplicates=_duplicates(examples), run_folder=run_folder,
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


def _rehearsal(
    config: TuneConfig, values: dict[str, Value], others: Sequence[Example], notes: list[str]
) -> list[Example]:
    """Return what is rehearsed; nothing of it is learned otherwise or measured, or the measure would say nothing."""
    if not config.rehearsal or not values["rehearsal_share"] or not values["rehearsal_weight"]:
        return []
    kept, left_out = apart_from(read_examples(config.rehearsal), others)
    if left_out:
        what = "is left out" if kept else "was all there is: nothing is rehearsed"
        notes.append(
            f"{left_out:,} questions or lines of {config.rehearsal.name} are also learned or measured: {what}."
        )
    return kept


def _price(longest: int, recipe: Recipe, values: dict[str, Value], base: Base, rehearsal: Sequence[Example]) -> Price:
    cards = graphics_cards()
    nvidia = [card for card in cards if card.vendor == "nvidia"]
    available = nvidia[0].memory_bytes if nvidia else available_memory_bytes() // count_here()
    item_bytes = 2 if nvidia else 4

    def setting(name: str) -> int:
        value = base.settings.get(name)
        return value if isinstance(value, int) else 0

    whole = base.method == "full"
    trained = sum(recipe.rank * (rows + columns) for rows, columns in base.modules.shapes)
    largest = max(
        [setting("vocab_size") * setting("hidden_size"), *(rows * cols for rows, cols in base.modules.shapes)]
    )
    old = [min(CHAT_LENGTH, recipe.length, example.most_tokens) for example in rehearsal if example.kind == "chat"]
    longest_text = max((example.most_tokens for example in rehearsal if example.kind == "text"), default=0)
    longest_old = max([min(longest_text, TEXT_LENGTH, recipe.length), *old])
    old += [example.most_tokens for example in rehearsal if example.kind == "text"]
    scratch = min(_SCRATCH_VALUES, largest) * _SCRATCH_BYTES
    frozen = base.stored_bytes + scratch if base.stored_bytes else base.parameters * item_bytes
    cost = price(
        base=base.parameters * 4 if whole else frozen, trained=base.parameters if whole else trained,
        each=TRAINED_BYTES if whole else TRAINED_BYTES + 4,  # an adapter's own values are not the base's
        noted=min(MOST_PLACES, sum(old)) * NOTED_BYTES, batch=int(_number(values["train_batch"])),
        longest=max(longest, longest_old), layers=base.modules.layers,
        width=setting("hidden_size"), vocabulary=setting("vocab_size"), item_bytes=item_bytes, available=available,
    )  # fmt: skip
    if available and cost.total > available:
        weights = cost.base + cost.trained + cost.noted
        if weights > available:
            less = "" if base.method == "qlora" else "; --method qlora keeps the base in 4 bits"
            raise NotEnough(
                f"Training takes at least {size_text(weights)} for the weights alone, "
                f"and {size_text(available)} of memory is there",
                f"Take a smaller base, or a lower rank{less}.", needed_bytes=cost.total, available_bytes=available,
            )  # fmt: skip
        raise NotEnough(
            f"Training takes up to {size_text(cost.total)} with one example at once, "
            f"and {size_text(available)} of memory is there",
            "Make examples shorter (--seq-length 256).", needed_bytes=cost.total, available_bytes=available,
        )  # fmt: skip
    return cost


def _told(cost: Price, batch: int) -> list[str]:
    """Say what is done to fit into memory."""
    notes = []
    if cost.at_once < batch:
        notes.append(f"{cost.at_once} of the {batch} examples of a batch are computed at once, to fit into memory.")
    if cost.checkpointing:
        notes.append("Layers are computed twice, to keep less in memory: about a third slower.")
    return notes


def _duplicates(examples: Sequence[Example]) -> int:
    return len(examples) - len({example.key for example in examples})


def _fingerprint(config: TuneConfig, values: dict[str, Value], read: Sequence[Sequence[Example]], base: Base) -> str:
    """Return what tells whether a stopped run is this one; a checkpoint by its config and the size of its files."""
    if config.base.is_dir():
        files = sorted(
            (file.name, file.stat().st_size)
            for file in config.base.iterdir()
            if file.suffix in (".safetensors", ".bin")
        )
    else:
        files = [(fingerprint_of(config.base), config.base.stat().st_size)]
    shaping = {name: value for name, value in values.items() if name != "sample_steps"}
    said = [
        shaping, [[example.key for example in examples] for examples in read],
        dict(base.settings), files, base.method, base.quantized, config.answers,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
