"""The job that measures: the combinations take turns, so that the machine's moods hit all of them alike."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from localknobs.bench.config import BenchConfig, Case, CaseResult, cases
from localknobs.bench.record import speed_record
from localknobs.engine import load
from localknobs.engine.cache_layout import cache_bytes
from localknobs.engine.client import Engine
from localknobs.engine.settings import LoadSettings
from localknobs.errors import EngineDied, LocalknobsError
from localknobs.gguf_info import check_is_model, read_header, shard_paths
from localknobs.hardware import available_memory_bytes
from localknobs.jobs import Advanced, JobEvent, Noted, Started
from localknobs.measured_speeds import MeasuredSpeed, remember_speeds

OPEN_SHARE = 0.6
"""Share of the free memory that models kept open side by side may take; beyond it each is loaded every time."""


@dataclass(slots=True)
class _Measured:
    """What is known of one case so far."""

    case: Case
    prompt: list[float] = field(default_factory=list)
    generation: list[float] = field(default_factory=list)
    devices: tuple[str, ...] = ()
    trouble: str = ""

    def result(self) -> CaseResult:
        return CaseResult(self.case, tuple(self.prompt), tuple(self.generation), self.devices, self.trouble)


def bench(config: BenchConfig) -> Generator[JobEvent, None, tuple[CaseResult, ...]]:
    """Measure every combination of a config; a job. What was measured is remembered for `fit`.

    A combination that is refused, or that cannot be loaded, has its reason in the result, and the others go on.

    Raises:
        NotFound, BadFile, Unsupported: the file is missing, damaged or of a kind that cannot be run.
        BadValue: there is nothing to measure, or too much.
        LocalknobsError: no combination could be measured.
    """
    header = read_header(config.model)
    check_is_model(header)
    measured = [_Measured(case) for case in cases(config)]
    loads = list(dict.fromkeys(one.case.loaded_as for one in measured))
    weights = sum(shard.stat().st_size for shard in shard_paths(header))
    each = weights + cache_bytes(header, loads[0])
    keep_open = len(loads) * each <= OPEN_SHARE * available_memory_bytes()
    open_models = _OpenModels()
    speeds: list[MeasuredSpeed] = []
    try:
        yield Started("measuring", len(measured) * config.repetitions, "steps")
        for _ in range(config.repetitions):
            for settings in loads:
                for one in (one for one in measured if one.case.loaded_as == settings and not one.trouble):
                    try:
                        _measure(one, open_models.model(settings), config)
                    except LocalknobsError as error:
                        open_models.close()
                        one.trouble = str(error)
                        yield Noted(f"{one.case.label}: {error}", "warning")
                    yield Advanced(1)
                if not keep_open:
                    open_models.close()
        speeds = _records(config, measured, open_models)
    finally:
        open_models.close()
    results = tuple(one.result() for one in measured)
    if not any(one.prompt or one.generation for one in results):
        raise LocalknobsError("Nothing could be measured", results[0].trouble)
    with contextlib.suppress(OSError):  # a home that cannot be written to costs the memory of it, not the measurement
        remember_speeds(speeds)
    return results


class _OpenModels:
    """Models that are loaded, and what the last of them said of itself."""

    def __init__(self) -> None:
        self._engines: dict[LoadSettings, Engine] = {}
        self.last: Engine | None = None

    def model(self, settings: LoadSettings) -> Engine:
        """Return a loaded model, warmed up by a few tokens."""
        if settings not in self._engines:
            engine = self._engines[settings] = load(settings)
            engine.time_tokens(read=min(32, settings.n_ctx))
        self.last = self._engines[settings]
        return self.last

    def close(self) -> None:
        """Close all."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()


def _measure(one: _Measured, engine: Engine, config: BenchConfig) -> None:
    """Measure a case once."""
    one.devices = engine.info.devices
    threads = one.case.settings.threads
    if engine.settings.threads != threads:
        engine.use_settings({"threads": threads})
    try:
        if config.prompt:
            one.prompt.append(config.prompt / engine.time_tokens(read=config.prompt, depth=config.depth))
        if config.generate:
            one.generation.append(config.generate / engine.time_tokens(written=config.generate, depth=config.depth))
    except EngineDied as died:
        raise LocalknobsError(died.message, "This combination ends llama.cpp here.") from None


def _records(config: BenchConfig, measured: Sequence[_Measured], models: _OpenModels) -> list[MeasuredSpeed]:
    """Return what is worth remembering, the fastest last; depths are not, as estimates are of an empty context."""
    if config.depth or models.last is None:
        return []
    info, header = models.last.info, read_header(config.model)
    results = sorted((one.result() for one in measured), key=lambda one: (one.generation_speed, one.prompt_speed))
    return [
        speed_record(
            header,
            one.case.settings,
            threads=one.case.settings.threads,
            devices=one.devices,
            size_bytes=info.size_bytes,
            parameters=info.parameters,
            prompt=(config.prompt if one.prompt else 0, one.prompt_speed),
            generated=(config.generate if one.generation else 0, one.generation_speed),
        )
        for one in results
        if one.prompt or one.generation
    ]
