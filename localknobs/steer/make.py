"""Make a control vector: the direction, layer by layer, in which the states of two lists of prompts differ.

The model reads the prompts in a worker process; the file is written beside its name and appears whole.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from localknobs.engine.checks import plan_context
from localknobs.engine.process import WorkerProcess
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadFile, BadValue, LocalknobsError, Unsupported
from localknobs.gguf_info import check_is_model, read_header, shard_paths
from localknobs.hardware import physical_cores
from localknobs.jobs import Advanced, Job, Noted, Started, Wrote, partial_file, refuse_same_file
from localknobs.steer.prompts import read_pairs
from localknobs.storing import was_cut_off

_COMMAND = (sys.executable, "-P", "-m", "localknobs.steer.worker")
DEFAULT_CONTEXT = 512
WEAK = 0.8
"""Share of pairs below which a direction tells little: half of them would agree by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorConfig:
    """What to make.

    Args:
        model: A GGUF file.
        positive: Prompts that have more of what the vector shall add, one a line.
        negative: Their counterparts, line by line.
        output: Where the vector is written.
        method: `pca` or `mean`, see `localknobs.steer.directions`.
        normalize: `difference` or `unit`, see there.
        chat: Put the model's chat template round each prompt, and read the state where the answer begins; otherwise
            prompts are read as they are, with control tokens where they spell some.
        context: Most tokens of a prompt.
        threads: 0 for all physical cores.
        n_gpu_layers: -1 for all that fit.
    """

    model: Path
    positive: Path
    negative: Path
    output: Path
    method: str = "pca"
    normalize: str = "difference"
    chat: bool = False
    context: int = DEFAULT_CONTEXT
    threads: int = 0
    n_gpu_layers: int = -1


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """A checked plan.

    Args:
        config: What was asked.
        positive, negative: The prompts.
        layers: Layers of the model.
    """

    config: VectorConfig
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    layers: int


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """What was found in one layer.

    Args:
        layer: Which, from 0.
        apart: How far apart both lists lie along its direction.
        agree: Share of the pairs whose positive prompt lies further along it.
        explained: Share of the squared differences that lies along it.
        state: Mean length of a state.
        length: Of its vector in the file: what a scale of 1 adds.
    """

    layer: int
    apart: float
    agree: float
    explained: float
    state: float
    length: float


def plan_vector(config: VectorConfig) -> VectorPlan:
    """Check everything that can be checked before the model is loaded.

    Raises:
        NotFound, BadFile: the model or a list is missing or damaged.
        BadValue: lists of different lengths, an empty one, or an output that is an input or another GGUF file.
        NotEnough: the context does not fit into memory.
        Unsupported: a model of one layer, which llama.cpp cannot steer.
    """
    header = read_header(config.model)
    check_is_model(header)
    if config.context < 1 or config.threads < 0:
        raise BadValue("A count cannot be below 0", f"Such as -c {DEFAULT_CONTEXT}; -t 0 takes all cores.")
    positive, negative = read_pairs(config.positive, config.negative)
    for file in (*shard_paths(header), config.positive, config.negative):
        refuse_same_file(file, config.output)
    check_output(config.output)
    layers = header.number("block_count")
    if layers < 2:
        raise Unsupported(f"{config.model} has {layers} layer(s)", "llama.cpp steers from the second layer on.")
    plan_context(header, LoadSettings(model=config.model, n_ctx=config.context))
    return VectorPlan(config, positive, negative, layers)


def check_output(output: Path) -> None:
    """Refuse to put a vector in the place of a model: other control vectors and files that are no GGUF are replaced.

    Raises:
        BadValue: the output is a GGUF file of another kind, or one that cannot be understood.
        BadFile: it cannot be read.
    """
    if not os.path.isfile(output) or was_cut_off(output):  # what the disk lost is made again under its name
        return
    try:
        with output.open("rb") as file:
            if file.read(4) != b"GGUF":
                return
    except OSError as error:
        raise BadFile(f"{output} cannot be read: {error.strerror or error}", "Name another output.") from None
    try:
        is_vector = read_header(output, skim=True).kind == "control vector"
    except LocalknobsError:
        is_vector = False
    if not is_vector:
        raise BadValue(f"{output} exists, and is no control vector", "Name another output.")


def make_vector(plan: VectorPlan) -> Job[tuple[FoundLayer, ...]]:
    """Read all prompts and write the vector.

    Args:
        plan: What `plan_vector` returned.

    Yields:
        Progress in tokens.

    Returns:
        What was found, by layer.

    Raises:
        BadValue: a prompt is too long, or both lists lead to the same states.
        Unsupported: llama.cpp does not show the layers of this architecture.
        EngineDied: the worker ended.
    """
    config = plan.config
    with partial_file(config.output) as beside:
        found = yield from _read(plan, beside)
    weak = [one.layer for one in found if one.agree < WEAK]
    if weak:
        yield Noted(
            f"In {len(weak)} of {len(found)} layers fewer than {WEAK:.0%} of the pairs differ in the same sense: more "
            "pairs, or pairs that differ in one thing alone, make a better vector.",
            "warning",
        )
    yield Wrote(config.output)
    return found


def _read(plan: VectorPlan, beside: Path) -> Job[tuple[FoundLayer, ...]]:
    config = plan.config
    yield Started("loading the model", 0, "tokens")
    worker = WorkerProcess(_COMMAND)
    try:
        worker.send({
            "model": str(config.model), "positive": plan.positive, "negative": plan.negative, "output": str(beside),
            "method": config.method, "normalize": config.normalize, "chat": config.chat, "context": config.context,
            "threads": config.threads or physical_cores(), "n_gpu_layers": config.n_gpu_layers,
            "extra": {
                "localknobs.controlvector.method": config.method,
                "localknobs.controlvector.normalize": config.normalize,
                "localknobs.controlvector.pairs": str(len(plan.positive)),
            },
        })  # fmt: skip
        while "layers" not in (message := worker.receive()):
            if "tokens" in message:
                yield Started("reading the prompts", message["tokens"], "tokens")
            elif "note" in message:
                yield Noted(message["note"])
            else:
                yield Advanced(message["read"])
        return tuple(FoundLayer(**one) for one in message["layers"])
    finally:
        worker.kill()  # it has nothing to save
