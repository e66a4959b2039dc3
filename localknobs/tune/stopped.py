"""Trainings that were stopped or killed: what each was, so that it can be taken up without its command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from localknobs.knobs import Value, check_value, defaults, flag_words
from localknobs.paths import built_in_checkpoint, written_whole
from localknobs.tune.config import TuneConfig
from localknobs.tune.examples import SHIPPED, shipped_examples
from localknobs.tune.plan import STATE

RUN = "run.json"
"""Name of the file in a run's folder that says what the run is."""


@dataclass(frozen=True, slots=True)
class StoppedRun:
    """A training that can be taken up.

    Args:
        base, data: As a user names them.
        output: The adapter's folder, which is not there yet.
        knobs: Fine-tuning knobs that were set.
        samples: Prompts that are answered now and then.
        arguments: The words after `localknobs` that go on with it.
        changed: When its state was saved, seconds since 1970.
    """

    base: str
    data: str
    output: Path
    knobs: Mapping[str, Value]
    samples: tuple[str, ...]
    arguments: tuple[str, ...]
    changed: float


def arguments_of(config: TuneConfig) -> list[str]:
    """Return the words after `localknobs` that make, or go on with, a training, from whatever folder."""
    words = ["finetune", str(config.base.absolute()), str(config.data.absolute()), "-o", str(config.output.absolute())]
    files = {
        "--checkpoint": config.checkpoint, "--held-out": config.held_out, "--general": config.general,
        "--rehearsal": config.rehearsal, "--curves": config.picture,
    }  # fmt: skip
    for flag, path in files.items():
        words += [flag, str(path.absolute())] if path else []
    for text in config.samples:
        words += [f"--sample={text}"]
    words += ["--answers", str(config.answers), "--threads", str(config.threads)]
    return [*words, *([] if config.prove else ["--no-proof"]), *flag_words(config.knobs)]


def write_run(folder: Path, config: TuneConfig) -> None:
    """Write what a run is into its folder."""
    run = {
        "arguments": arguments_of(config), "base": str(config.base.absolute()), "data": str(config.data.absolute()),
        "output": str(config.output.absolute()), "samples": config.samples, "knobs": config.knobs,
    }  # fmt: skip
    with written_whole(folder / RUN) as beside:
        beside.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def stopped_runs(folders: Iterable[Path]) -> list[StoppedRun]:
    """Return the stopped trainings whose outputs would lie in some folders, the newest first."""
    found: dict[Path, StoppedRun] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            for file in folder.glob(f".*.training/{RUN}"):
                run = _read(file)
                if run:
                    found[run.output] = run
    return sorted(found.values(), key=lambda run: -run.changed)


def _read(file: Path) -> StoppedRun | None:
    try:
        changed = file.with_name(STATE).stat().st_mtime  # without a state there is nothing to go on with
        run = json.loads(file.read_text(encoding="utf-8"))
        known = defaults("fine-tuning")
        knobs = {name: check_value(name, value) for name, value in run["knobs"].items() if name in known}
        return StoppedRun(
            name_of_base(Path(run["base"])), name_of_data(Path(run["data"])), Path(run["output"]), knobs,
            tuple(map(str, run["samples"])), tuple(map(str, run["arguments"])), changed,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def name_of_base(path: Path) -> str:
    """Return `built-in` for the built-in model's checkpoint, the path of another."""
    return "built-in" if path == built_in_checkpoint() else str(path)


def name_of_data(path: Path) -> str:
    """Return the name of a set of examples that is shipped, the path of another."""
    return next((name for name in SHIPPED if path == shipped_examples(name)), str(path))
