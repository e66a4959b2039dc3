"""The stages of measuring, one after another in one process: the text, tasks, needles, long chunks, speed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, fields
from importlib.metadata import version as installed_version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from localknobs.bench import speed_record
from localknobs.engine import probe
from localknobs.engine.adapter_files import read_adapters
from localknobs.errors import EngineDied
from localknobs.evaluate.config import STAGES_OF, TIME_SHARES, Variant
from localknobs.evaluate.results import StageTime
from localknobs.evaluate.session import Clock, Session
from localknobs.evaluate.store import file_mark
from localknobs.evaluate.summaries import speed_of
from localknobs.evaluate.tasks import Item
from localknobs.evaluate.text_pass import Readings, TextPass, read_pass
from localknobs.evaluate.unit_pass import UnitPass, groups_of, work_through
from localknobs.gguf_info import Header, shard_paths
from localknobs.jobs import Advanced, Job, Started
from localknobs.measured_speeds import remember_speeds

if TYPE_CHECKING:
    from localknobs.evaluate.run import EvalPlan

DEFAULT_TEXT = "localknobs-held-out"
"""Name of the text that is shipped, in reports."""
PROMPT_TOKENS, GENERATED_TOKENS, ROUNDS = 512, 128, 5
"""What is timed: llama-bench's pp512 and tg128, in five rounds after one that warms up."""
LONGEST_CHUNK = 4096
"""Longest chunk of the suite `position` where none is named."""
UnitRecords = dict[int, dict[Any, dict[str, Any]]]


def shipped_text() -> Path:
    """Return the evaluation text that is shipped.

    Our own writing, of the kinds of text that models meet, and none of it in the calibration text of the importance
    matrix: a quant made with that one is measured on words it never saw.
    """
    return Path(__file__).with_name("data") / "held-out.txt"


@dataclass(slots=True)
class Found:
    """What the stages found, by model number; empty where a stage was not asked for."""

    text: Readings | None = None
    position: Readings | None = None
    general: Readings | None = None
    tasks: UnitRecords = field(default_factory=dict)
    general_tasks: UnitRecords = field(default_factory=dict)
    needles: UnitRecords = field(default_factory=dict)
    speeds: dict[int, list[dict[str, float]]] = field(default_factory=dict)
    times: list[StageTime] = field(default_factory=list)


class Stages:
    """Goes through the stages.

    Args:
        plan: What is asked.
        session: An open process; replaced where its death can be mended.
    """

    def __init__(self, plan: EvalPlan, session: Session) -> None:
        self._plan = plan
        self._config = plan.config
        self._session = session
        self._clock = Clock(plan.config.minutes)
        self._marks = {number: _mark(variant, plan.headers[number]) for number, variant in plan.variants}

    def run(self) -> Job[Found]:
        """Measure what is asked for."""
        stages = {
            "text": self._read_text,
            "tasks": self._ask_tasks,
            "general text": self._read_general,
            "general tasks": self._ask_general,
            "needle": self._find_needles,
            "position": self._read_long,
            "speed": self._time,
        }
        wanted = {name for suite in self._config.suites for name in STAGES_OF[suite]}
        asked = [(name, stage) for name, stage in stages.items() if name in wanted]
        found = Found()
        for at, (name, stage) in enumerate(asked):
            self._clock.begin_stage(TIME_SHARES[name], sum(TIME_SHARES[later] for later, _ in asked[at:]))
            yield from self._timed_stage(name, stage(found), found)
        return found

    def _timed_stage(self, name: str, stage: Job[None], found: Found) -> Job[None]:
        """Run a stage, and note how long its work took: what was kept from before is not counted."""
        began, done = monotonic(), 0
        for event in stage:
            done += event.amount if isinstance(event, Advanced) else 0
            yield event
        if done:
            cells = self._plan.needle_cells if name == "needle" else []
            each = sum(cell["length"] for cell in cells) / len(cells) if cells else 1.0
            found.times.append(StageTime(name, done * each, self._plan.parameters, monotonic() - began))

    def _read(self, reading: TextPass) -> Job[Readings]:
        plan = self._plan
        return (yield from read_pass(self._session, self._config, plan.variants, self._marks, reading, self._clock))

    def _text_name(self) -> str:
        return self._config.text.name if self._config.text else DEFAULT_TEXT

    def _read_text(self, found: Found) -> Job[None]:
        size = self._config.chunk_tokens
        compared = "kld" in self._config.suites
        found.text = yield from self._read(
            TextPass(self._plan.text, self._text_name(), size, size // 2, compared, self._plan.mode)
        )

    def _read_long(self, found: Found) -> Job[None]:
        size = self._config.position_tokens or min(self._plan.context, LONGEST_CHUNK)
        compared = self._config.base is not None
        found.position = yield from self._read(
            TextPass(self._plan.text, self._text_name(), size, 0, compared, self._plan.mode, least=1)
        )

    def _ask(self, items: tuple[Item, ...]) -> Job[UnitRecords]:
        units = [item.as_order() for item in items]
        work = UnitPass("items", units, "item", "asking", "questions", self._plan.context)
        return (
            yield from work_through(self._session, self._config, self._plan.variants, self._marks, work, self._clock)
        )

    def _ask_tasks(self, found: Found) -> Job[None]:
        found.tasks = yield from self._ask(self._plan.items)

    def _read_general(self, found: Found) -> Job[None]:
        size = self._config.chunk_tokens
        found.general = yield from self._read(
            TextPass(shipped_text(), DEFAULT_TEXT, size, size // 2, True, self._plan.mode)
        )

    def _ask_general(self, found: Found) -> Job[None]:
        found.general_tasks = yield from self._ask(self._plan.general)

    def _find_needles(self, found: Found) -> Job[None]:
        cells = self._plan.needle_cells
        longest = max(cell["length"] for cell in cells) + self._config.needle_answer
        work = UnitPass("needle", cells, "cell", "looking for needles with", "needles", longest)
        found.needles = yield from work_through(
            self._session, self._config, self._plan.variants, self._marks, work, self._clock
        )

    def _time(self, found: Found) -> Job[None]:
        """Time the models the way they are loaded for a chat; without repacked weights where those crash."""
        extra = probe.extra_buffers_work()
        try:
            found.speeds = yield from self._timed(extra)
        except EngineDied:
            if not extra:
                raise
            self._session.restart()
            found.speeds = yield from self._timed(False)

    def _timed(self, extra: bool) -> Job[dict[int, list[dict[str, float]]]]:
        records: dict[int, list[dict[str, float]]] = {}
        groups = groups_of(self._plan.variants)
        for at, group in enumerate(groups):
            self._clock.begin_group(len(group), sum(map(len, groups[at:])))
            names = ", ".join(variant.label for _, variant in group)
            yield Started(f"timing {names}", ROUNDS * len(group), "rounds")
            opened = self._session.open(group, PROMPT_TOKENS, extra=extra)
            order = {"do": "speed", "prompt": PROMPT_TOKENS, "generated": GENERATED_TOKENS, "rounds": ROUNDS}
            for record in self._session.records(order, self._clock.is_over):
                records.setdefault(record["model"], []).append(record)
                yield Advanced(1)
            self._remember(dict(group), opened, records)
        return records

    def _remember(
        self, group: dict[int, Variant], opened: list[dict[str, Any]], records: dict[int, list[dict[str, float]]]
    ) -> None:
        """Keep the speeds for `fit`, as `localknobs bench` does: of models as they are, without adapters."""
        found = []
        for one in opened:
            number = one["opened"]
            variant = group[number]
            if not records.get(number) or read_adapters(variant.settings):
                continue
            speed = speed_of(records[number], PROMPT_TOKENS, GENERATED_TOKENS)
            found.append(
                speed_record(
                    self._plan.headers[number],
                    variant.settings,
                    threads=self._session.threads,
                    devices=tuple(one["devices"]),
                    size_bytes=one["size_bytes"],
                    parameters=one["parameters"],
                    prompt=(PROMPT_TOKENS, speed.prompt),
                    generated=(GENERATED_TOKENS, speed.generation),
                )
            )
        with contextlib.suppress(OSError):  # a home that cannot be written to costs the memory of it, not the report
            remember_speeds(sorted(found, key=lambda one: one.generation_tokens_per_s))


def _mark(variant: Variant, header: Header) -> dict[str, Any]:
    """Return what tells the numbers of a model from those of another; threads change none."""
    settings = {item.name: getattr(variant.settings, item.name) for item in fields(variant.settings)}
    for free in ("model", "threads", "n_ctx", "use_extra_bufts", "lora", "lora_any_base", "control_vector"):
        settings.pop(free)
    return {
        "files": [file_mark(shard) for shard in shard_paths(header)], "settings": settings,
        "adapters": [[file_mark(file.path), file.scale] for file in read_adapters(variant.settings)],
        "engine": installed_version("llama-cpp-python"),
    }  # fmt: skip
