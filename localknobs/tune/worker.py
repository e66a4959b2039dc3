"""The training process: `python -m localknobs.tune.worker`.

Standard input brings one order, a JSON object, and then at most a stop; standard output takes what happens, one JSON
object a line. A parent that has died is a stop too. The state goes to a file of the parent's choice now and then, so
that a stopped or killed run can be taken up again.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from localknobs.convert.child import Say, serve
from localknobs.convert.gguf_checkpoint import write_checkpoint_of
from localknobs.errors import BadFile
from localknobs.tune.curves import CurveLog
from localknobs.tune.encode import Encoded, Encoder, load_tokenizer
from localknobs.tune.packing import check_packing
from localknobs.tune.ranks import Ranks
from localknobs.tune.rehearsal import CHAT_LENGTH, TEXT_LENGTH, chosen_rows, old_beside
from localknobs.tune.timing import estimated_seconds
from localknobs.tune.trainee import load_trainee, save_trained, seed_again
from localknobs.tune.training import Material, Training

GENERAL_LENGTH, GENERAL_TOKENS = 256, 4096
"""Most tokens of a general example or a piece of text, and of all of them together: they are read at each look."""
SAMPLE_TOKENS = 96
"""Most tokens of the answer to a prompt of the user's."""
_BEYOND_TOKENS = 16
"""Tokens that an answer may be longer than the right one."""


def _listen(stop: threading.Event) -> None:
    """Wait for a stop; a parent that has died is one too."""
    sys.stdin.buffer.readline()
    stop.set()


def _run(order: dict[str, Any], say: Say) -> None:
    # Nothing is looked up on the hub.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    stop = threading.Event()
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    ranks = Ranks()
    if not order["look_only"]:
        ranks.join()
    if not ranks.rank and order["gguf"] and not (Path(order["base"]) / "config.json").is_file():
        write_checkpoint_of(Path(order["gguf"]), Path(order["base"]))
    if not order["look_only"]:
        ranks.added(0)  # the others wait until it is there
    tokenizer = load_tokenizer(order["base"])
    encoder = Encoder(tokenizer, order["length"])
    learn = _encoded(encoder, order["learn"])
    held_out = _encoded(encoder, order["held_out"])
    look = _data_look(tokenizer, learn, held_out)
    numbers = _numbers(order, len(learn))
    rehearsal = _old_rows(tokenizer, numbers)
    look["rehearsal"] = len(rehearsal)
    if order["look_only"]:
        read = sum(len(example.tokens) for example in held_out) + GENERAL_TOKENS * bool(order["general"])
        look["seconds"] = estimated_seconds(numbers, learn, rehearsal, read) if learn else 0.0
    say({"data": {**look, "steps": numbers["steps"]}})
    if order["look_only"]:
        return
    if not learn or not any(any(example.learned[1:]) for example in learn):
        raise BadFile(
            "No example has an answer within the length: nothing can be learned", "Give a longer --seq-length."
        )
    trainee, device = load_trainee(order)
    general = _encoded(Encoder(tokenizer, min(GENERAL_LENGTH, order["length"])), order["general"])
    if order["pack"]:
        check_packing(trainee, learn, device)
    say({"loaded": device})
    if ranks.rank:  # each with a dropout of its own, and the first with that of a single process
        seed_again(order["seed"] + ranks.rank)
    material = Material(
        learn, held_out, _first(general, GENERAL_TOKENS), _questions(tokenizer, encoder, order),
        _samples(tokenizer, encoder, order), rehearsal,
    )  # fmt: skip
    log = None if ranks.rank else CurveLog(Path(order["curves"]))

    def tell(message: dict[str, Any]) -> None:
        if log:
            log.take(message)  # first: the parent reads the log when it hears of it
        say(message)

    training = Training(numbers, trainee, material, tokenizer, tell, stop.is_set, ranks)
    if not training.run():
        return
    say({"measuring": True})
    after = training.measure()
    progress, written = training.progress, training.sample()
    if not ranks.rank:
        save_trained(trainee, order)
    tell({
        "finished": {
            "before": progress.first, "after": after, "step": progress.step, "best_step": progress.best_step,
            "seconds": progress.seconds, "losses": progress.losses, "device": device,
            "sample": written[0] if written else "",
        }
    })  # fmt: skip


def _encoded(encoder: Encoder, examples: Sequence[Mapping[str, Any]]) -> list[Encoded]:
    return [part for example in examples for part in encoder.encode(example)]


def _old_rows(tokenizer: Any, order: Mapping[str, Any]) -> list[Encoded]:
    """Return what is rehearsed: as much of it as the steps can read."""
    encoders = {
        kind: Encoder(tokenizer, min(length, order["length"]))
        for kind, length in (("chat", CHAT_LENGTH), ("text", TEXT_LENGTH))
    }
    try:
        rows = [part for example in order["rehearsal"] for part in encoders[example["kind"]].encode(example)]
    except BadFile as error:
        raise BadFile(f"Of what is rehearsed: {error.message}", error.hint) from None
    read = order["steps"] * order["accumulation"] * old_beside(order["batch"], order["rehearsal_share"])
    return chosen_rows(rows, read, order["seed"])


def _first(examples: Sequence[Encoded], most: int) -> list[Encoded]:
    """Return the first examples, up to so many tokens together."""
    kept: list[Encoded] = []
    for example in examples:
        most -= len(example.tokens)
        if most < 0:
            break
        kept.append(example)
    return kept


def _numbers(order: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """Return the order with its steps, and how often to look and to sample where that was left to the program."""
    per_epoch = -(-examples // (order["batch"] * order["accumulation"]))
    steps = max(1, round(per_epoch * order["epochs"]))
    steps = min(steps, order["max_steps"] or steps)
    look_every = order["look_every"] or max(1, min(200, -(-steps // 12)))
    return {**order, "steps": steps, "look_every": look_every, "sample_every": order["sample_every"] or look_every}


def _questions(tokenizer: Any, encoder: Encoder, order: Mapping[str, Any]) -> list[tuple[list[int], int, str]]:
    """Return the held-out questions that are asked, each with room for its answer, and the right one."""
    found = []
    for example in order["held_out"][: order["answers"]]:
        if example["kind"] == "chat":
            *asked, right = example["messages"]
            found.append((encoder.prompt(asked), _room_for(tokenizer, right["content"]), right["content"]))
    return found


def _room_for(tokenizer: Any, right: str) -> int:
    """Return most tokens of an answer: those of the right one, and some to see that it ends there."""
    return len(tokenizer(right, add_special_tokens=False)["input_ids"]) + _BEYOND_TOKENS


def _samples(tokenizer: Any, encoder: Encoder, order: Mapping[str, Any]) -> list[tuple[str, list[int], int]]:
    """Return the fixed prompts with room for their answers; the first held-out question where none was given."""
    given = [
        (text, encoder.prompt([{"role": "user", "content": text}]), SAMPLE_TOKENS) for text in order["samples"]
    ]  # fmt: skip
    if given:
        return given
    for example in order["held_out"]:
        if example["kind"] == "chat":
            *asked, right = example["messages"]
            room = _room_for(tokenizer, right["content"])
            return [(asked[-1]["content"] if asked else "", encoder.prompt(asked), room)]
    return []


def _data_look(tokenizer: Any, learn: Sequence[Encoded], held_out: Sequence[Encoded]) -> dict[str, Any]:
    """Return what the examples are as tokens; one of them as the model sees it."""
    lengths = sorted(example.was for example in (*learn, *held_out)) or [0]
    cut = [example for example in (*learn, *held_out) if example.was > len(example.tokens)]
    shown = learn[0] if learn else None
    return {
        "learn": len(learn), "held_out": len(held_out), "tokens": sum(len(example.tokens) for example in learn),
        "learned": sum(sum(example.learned[1:]) for example in learn),
        "shortest": lengths[0], "median": lengths[len(lengths) // 2], "longest": lengths[-1],
        "cut": len(cut), "cut_line": cut[0].line if cut else 0,
        "shown": _parts(tokenizer, shown) if shown else [],
    }  # fmt: skip


def _parts(tokenizer: Any, example: Encoded, most: int = 400) -> list[tuple[str, bool]]:
    """Return an example's text in pieces, each with whether it is learned."""
    parts: list[tuple[list[int], bool]] = []
    for token, learned in zip(example.tokens[:most], example.learned, strict=False):
        if not parts or parts[-1][1] != learned:
            parts.append(([], learned))
        parts[-1][0].append(token)
    return [(tokenizer.decode(tokens), learned) for tokens, learned in parts]


if __name__ == "__main__":
    serve(_run)
