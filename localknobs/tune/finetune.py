"""The job: train in a child process, then write the adapter, or the model, also as GGUF, with a card."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from localknobs.convert.lora_to_gguf import LoraConfig, convert_lora, plan_lora
from localknobs.convert.quantize import quantize
from localknobs.convert.to_gguf import ConvertConfig, convert
from localknobs.engine.process import WorkerProcess
from localknobs.errors import EngineDied, LocalknobsError, Unsupported
from localknobs.hardware import physical_cores
from localknobs.jobs import Advanced, Job, Measured, Noted, Started, Wrote, partial_folder, without_files
from localknobs.paths import written_whole
from localknobs.tune.base import NF4
from localknobs.tune.curves import CurveReader, curves_file
from localknobs.tune.picture import draw_curves
from localknobs.tune.plan import STATE, TunePlan
from localknobs.tune.proof import Proof, prove, prove_model, prove_over_file
from localknobs.tune.ranks import count_here, rank
from localknobs.tune.signs import signs_of
from localknobs.tune.stopped import RUN, write_run
from localknobs.units import size_text

STOP_S = 20.0
"""Time a stopped training has to save its state."""
CARD = "localknobs-finetune.json"
CONFIG = "config"
"""Folder in the run's folder with what a GGUF file says as a checkpoint would."""
_POLL_S = 0.05
_WORKER = (sys.executable, "-P", "-m", "localknobs.tune.worker")


@dataclass(slots=True)
class TuneResult:
    """What came of a training.

    Args:
        folder: The adapter, in peft's form, or the whole model; None where only the data was looked at.
        gguf: The same as GGUF; None where it can have no such form.
        base_file: GGUF file whose bytes an adapter was trained over, and which it goes with; None for others.
        data: Counts and lengths of the data, one example.
        before, after: `held_out` and `general` (mean losses, nats a token), `next_token` (share of held-out tokens
            that are the likeliest), `right` (share of held-out questions answered word for word).
        steps, best_step: Steps made, and the one whose adapter was kept.
        seconds: Time of the steps.
        sample: What the model now answers to the first sample prompt.
        signs: What looks wrong, each with what to change.
        looks: What was measured on the way: step, and as `before`.
        losses: Of every step.
        proof: How far torch, the GGUF adapter and the merged file agree; None where that was not asked for or failed.
    """

    folder: Path | None = None
    gguf: Path | None = None
    base_file: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    best_step: int = 0
    seconds: float = 0.0
    sample: str = ""
    signs: list[str] = field(default_factory=list)
    looks: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    proof: Proof | None = None


def look_at_data(plan: TunePlan) -> Job[TuneResult]:
    """Count and measure the examples as the model will see them; train nothing."""
    result = TuneResult()
    yield Started("reading the data", 0, "examples")
    worker = WorkerProcess(_WORKER)
    try:
        with tempfile.TemporaryDirectory(prefix="localknobs-") as folder:
            worker.send(_order(plan, Path(), plan.base.checkpoint or Path(folder) / "config", look_only=True))
            result.data = (yield from _next(worker))["data"]
    finally:
        worker.kill()
    return result


def finetune(plan: TunePlan) -> Job[TuneResult]:
    """Train, and write the adapter or the model.

    Args:
        plan: What `plan_finetune` returned.

    Yields:
        Progress in steps; `loss` at every step, `held-out loss` and `general loss` at each look; what the model answers
        and what looks wrong as notes. All of it is kept in the file beside the output that `curves_file` names, also
        when the training is stopped or killed, and drawn when it ends in any other way than a kill.

    Raises:
        BadFile: the model's template refuses an example, or a stopped run of another kind lies beside the output.
        LocalknobsError: the loss is no number any more, or the training process ended; its state remains.
    """
    result = TuneResult()
    for text in plan.notes:
        yield Noted(text, "warning")
    state = plan.run_folder / STATE
    if plan.config.restart and not rank():
        state.unlink(missing_ok=True)
    plan.run_folder.mkdir(parents=True, exist_ok=True)
    made = plan.base.gguf if plan.base.quantizing else None
    checkpoint = plan.base.checkpoint or plan.run_folder / CONFIG
    if rank():  # it only computes; the first process writes
        while made and not made.is_file():
            yield Advanced(0)
            time.sleep(_POLL_S)
        yield from _train(plan, Path(), checkpoint, result)
        return result
    if plan.base.quantizing and made and not made.is_file():
        yield from without_files(quantize(plan.base.quantizing))
    write_run(plan.run_folder, plan.config)
    with partial_folder(plan.config.output) as beside:
        try:
            yield from _train(plan, beside, checkpoint, result)
        finally:
            draw_curves(curves_file(plan.config.output), plan.config.picture)
        result.gguf = yield from _write_gguf(plan, beside, checkpoint)
        _write_card(plan, result, beside)
    result.folder, result.base_file = plan.config.output, plan.base.gguf
    if made:  # the adapter learned the error of this very file
        result.base_file = result.folder / made.name
        os.replace(made, result.base_file)
    for file in (state, plan.run_folder / RUN):
        file.unlink(missing_ok=True)
    yield Wrote(plan.config.output)
    if plan.config.prove:
        try:
            result.proof = yield from _proof(plan, result, checkpoint)
        except LocalknobsError as error:  # what was trained is whole; what is missing is the comparison
            yield Noted(f"The forms of the result were not compared: {error}", "warning")
        _write_card(plan, result, result.folder)
    shutil.rmtree(plan.run_folder / CONFIG, ignore_errors=True)
    with contextlib.suppress(OSError):
        plan.run_folder.rmdir()
    return result


def _proof(plan: TunePlan, result: TuneResult, checkpoint: Path) -> Job[Proof | None]:
    """Compare the forms of the result; None where there is only one."""
    threads = plan.config.threads
    assert result.folder
    if plan.base.method == "full":
        return (yield from prove_model(result.folder, result.gguf, threads)) if result.gguf else None
    if result.base_file is None:
        return (yield from prove(checkpoint, result.folder, result.gguf, threads))
    if result.gguf is None:
        return None
    return (yield from prove_over_file(result.base_file, checkpoint, result.folder, result.gguf, threads))


def _train(plan: TunePlan, folder: Path, checkpoint: Path, result: TuneResult) -> Job[None]:
    yield Started("loading the base", 0, "steps")
    reader, named = CurveReader(curves_file(plan.config.output)), set[str]()
    worker, finished = WorkerProcess(_WORKER), False
    try:
        worker.send(_order(plan, folder, checkpoint))
        while not finished:
            message = yield from _next(worker)
            yield from _told(message, plan, result)
            finished = "finished" in message
            if finished or "look" in message:
                reader.read()
                result.signs = signs_of(reader.curves, result.after)
                yield from (Noted(sign, "warning") for sign in result.signs if _name(sign) not in named)
                named.update(map(_name, result.signs))
    except EngineDied as death:
        error = LocalknobsError(
            death.message.replace("The engine", "The training process"),
            death.hint.replace("model or context", "base, --batch-size or --seq-length")
            + " The same command goes on from the last state that was saved.",
        )
        error.log_tail = death.log_tail
        raise error from None
    finally:
        _end(worker, kill=finished)


def _told(message: Mapping[str, Any], plan: TunePlan, result: TuneResult) -> Job[None]:
    """Turn what the training process says into events."""
    if "data" in message:
        result.data = message["data"]
        if plan.duplicates:
            yield Noted(f"{plan.duplicates:,} examples say the same as an earlier one.")
        if cut := result.data["cut"]:
            yield Noted(
                f"{cut:,} examples are longer than {plan.recipe.length:,} tokens and lose their end, the first at line "
                f"{result.data['cut_line']:,}: --seq-length",
                "warning",
            )
    elif "begun" in message:
        if message["begun"]:
            yield Noted(f"Taken up after step {message['begun']:,} of {message['steps']:,}, where it was stopped.")
            yield Started("training", message["steps"], "steps", done=message["begun"])
        elif asked := _asked(plan):
            yield Started("answers before", asked, "questions")
    elif "noting" in message:
        yield Started("noting what the base says", message["noting"], "old rows")
    elif "noted" in message:
        yield Advanced(message["noted"])
    elif "before" in message:
        result.before = message["before"]
        yield Started("training", result.data["steps"], "steps")
        yield from _measured(result.before, 0)
    elif "step" in message:
        yield Advanced(1)
        yield Measured("learning rate", message["rate"], message["step"])
        yield Measured("loss", message["loss"], message["step"])  # last: a bar shows the last one
    elif "look" in message:
        result.looks.append((message["at"], message["look"]))
        yield from _measured(message["look"], message["at"])
        yield Noted(_look_text(message["at"], message["look"]))
    elif "samples" in message:
        for prompt, text in message["samples"]:
            yield Noted(f'step {message["at"]:,}: "{prompt[:60]}" is answered "{text[:160]}"')
    elif "enough" in message:
        yield Noted(
            f"The held-out loss falls no more: stopped early; the adapter of step {message['enough']:,} is kept."
        )
    elif "measuring" in message:
        yield Started("measuring what was kept", _asked(plan), "questions")
    elif "asked" in message:
        yield Advanced(1)
    elif "finished" in message:
        found = message["finished"]
        result.before, result.after = found["before"], found["after"]
        result.steps, result.best_step = found["step"], found["best_step"] or found["step"]
        result.seconds, result.sample, result.losses = found["seconds"], found["sample"], found["losses"]


def _asked(plan: TunePlan) -> int:
    """Return how many held-out questions are answered, before and after."""
    return sum(example.kind == "chat" for example in plan.held_out[: plan.config.answers])


def _measured(found: Mapping[str, float], step: int) -> Job[None]:
    for key, name in (("general", "general loss"), ("held_out", "held-out loss")):
        if key in found:
            yield Measured(name, found[key], step)


def _name(sign: str) -> str:
    return sign.partition(":")[0]


def _look_text(step: int, found: Mapping[str, float]) -> str:
    parts = [f"step {step:,}"]
    if "held_out" in found:
        parts.append(f"held-out loss {found['held_out']:.3f}, next token right {found['next_token']:.0%}")
    if "general" in found:
        parts.append(f"general loss {found['general']:.3f}")
    return "; ".join(parts)


def _write_gguf(plan: TunePlan, folder: Path, checkpoint: Path) -> Job[Path | None]:
    """Write what was trained as GGUF into its folder; return where it will be, None where it can have no such form."""
    name = f"{plan.config.output.name}.gguf"
    try:
        if plan.base.method == "full":
            job = convert(ConvertConfig(folder, folder / name, name=plan.config.output.name))
        else:
            job = convert_lora(plan_lora(LoraConfig(folder, checkpoint, folder / name, over=_file_of(plan))))
        yield from without_files(job)  # it gets its final name with the folder
    except Unsupported as refusal:
        yield Noted(f"There is no GGUF form of it: {refusal.message}. {refusal.hint}", "warning")
        return None
    return plan.config.output / name


def _file_of(plan: TunePlan) -> Path | None:
    """Return the GGUF file that was trained over, where there is one still."""
    return plan.base.gguf if plan.base.gguf and plan.base.gguf.is_file() else None


def _order(plan: TunePlan, folder: Path, checkpoint: Path | None = None, *, look_only: bool = False) -> dict[str, Any]:
    """Return the training as plain data for its process."""
    values, recipe, config, state = plan.values, plan.recipe, plan.config, plan.run_folder / STATE
    return {
        "base": str(checkpoint or plan.base.checkpoint), "gguf": str(plan.base.gguf or ""),
        "base_name": str(config.base.absolute()), "method": plan.base.method,
        "nf4": plan.base.quantized == NF4, "output": str(folder), "state": str(state), "fingerprint": plan.fingerprint,
        "resume": state.is_file() and not look_only and not config.restart, "look_only": look_only,
        "learn": [example.as_order() for example in plan.learn],
        "held_out": [example.as_order() for example in plan.held_out],
        "general": [example.as_order() for example in plan.general],
        "rehearsal": [example.as_order() for example in plan.rehearsal],
        "rehearsal_share": values["rehearsal_share"] if plan.rehearsal else 0.0,
        "rehearsal_weight": values["rehearsal_weight"], "samples": list(config.samples),
        "answers": config.answers, "curves": str(curves_file(config.output)),
        "rank": recipe.rank, "alpha": recipe.alpha, "rate": recipe.rate, "epochs": recipe.epochs,
        "length": recipe.length, "modules": plan.base.modules.names, "dropout": values["lora_dropout"],
        "rslora": values["rslora"] == "on", "dora": values["dora"] == "on", "batch": values["train_batch"],
        "at_once": plan.price.at_once, "pack": recipe.length if values["packing"] == "on" else 0,
        "accumulation": values["accumulation"], "max_steps": values["max_steps"], "warmup": values["warmup"],
        "schedule": values["schedule"], "decay": values["weight_decay"], "patience": values["patience"],
        "seed": values["train_seed"], "threads": config.threads or max(1, physical_cores() // count_here()),
        "look_every": values["eval_steps"], "sample_every": values["sample_steps"],
        "checkpointing": plan.price.checkpointing,
    }  # fmt: skip


def _write_card(plan: TunePlan, result: TuneResult, folder: Path) -> None:
    with written_whole(folder / CARD) as beside:
        beside.write_text(json.dumps(_card(plan, result), indent=2) + "\n", encoding="utf-8")


def _card(plan: TunePlan, result: TuneResult) -> dict[str, Any]:
    """Return the record that is kept beside the adapter: enough to make it again."""
    from importlib.metadata import version

    numbers = {name: {key: value for key, value in found.items() if not math.isnan(value)}
               for name, found in (("before", result.before), ("after", result.after))}  # fmt: skip
    return {
        "base": str(plan.config.base.absolute()), "data": str(plan.config.data.absolute()),
        "rehearsal": str(plan.config.rehearsal.absolute()) if plan.config.rehearsal and plan.rehearsal else None,
        "fingerprint": plan.fingerprint, "knobs": plan.values, "recipe": asdict(plan.recipe),
        "method": plan.base.method, "quantized_base": plan.base.quantized,
        "modules": plan.base.modules.names, "parameters": plan.price.trained_parameters,
        "examples": {"learned": len(plan.learn), "held_out": len(plan.held_out), **result.data}, **numbers,
        "steps": result.steps, "best_step": result.best_step, "seconds": result.seconds, "signs": result.signs,
        "losses": result.losses, "looks": result.looks, "proof": asdict(result.proof) if result.proof else None,
        "versions": {name: version(name) for name in ("localknobs", "torch", "transformers", "peft")},
    }  # fmt: skip


def _next(worker: WorkerProcess) -> Job[dict[str, Any]]:
    """Return the next message; yields while it waits, so that the job can be stopped."""
    while worker.messages.empty():
        yield Advanced(0)
        time.sleep(_POLL_S)
    return worker.receive()


def _end(worker: WorkerProcess, *, kill: bool) -> None:
    """Let the training save its state and end; a stuck one is killed, and its last state remains."""
    worker.send({"do": "stop"})
    if not kill:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(STOP_S)
    worker.kill()


def price_text(plan: TunePlan) -> str:
    """Say in one line what a training takes."""
    cost = plan.price
    text = (
        f"{plan.base.method}: {cost.trained_parameters:,} values are trained; up to {size_text(cost.total)} of memory "
        f"(weights {size_text(cost.base)}, training {size_text(cost.trained + cost.noted)}, "
        f"activations {size_text(cost.activations)})"
    )
    return text + (f"; the base is quantized to {plan.base.quantized} first" if plan.base.quantized else "")
