"""What RoPE settings do to a model, measured: on short prompts, and beyond the length it was trained with.

The measuring is `localknobs eval`'s own (`stages.py`): KL divergence, perplexity by place, hidden numbers. A job.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any

from localknobs.engine.cache_layout import cache_bytes
from localknobs.evaluate.context_plan import EffectPlan, text_name
from localknobs.evaluate.results import Paired, Share, plain
from localknobs.evaluate.run import EvalPlan, plan_eval
from localknobs.evaluate.session import Session
from localknobs.evaluate.stages import Found, Stages
from localknobs.evaluate.statistics import Divergence, Estimate, Floats, mean_of, perplexity_of
from localknobs.evaluate.summaries import paired, share_of
from localknobs.evaluate.tables import interval_text, p_text, share_text
from localknobs.gguf_info import shard_paths
from localknobs.hardware import available_memory_bytes, physical_cores
from localknobs.jobs import Job, Noted
from localknobs.measured_effects import MeasuredEffect
from localknobs.units import time_text

SHORT_SHARE = 0.35
"""How much of the time short prompts may take where longer ones follow."""
LEAST_READ = 6
"""Prompts of the full length that are worth beginning with: two chunks of text and some hidden numbers."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """How well tokens at some places are predicted.

    Args:
        begin, end: Places, counted from 1, the end with them.
        plain, scaled: Perplexity without and with the settings.
        log_ratio: Logarithm of scaled / plain, paired over chunks.
    """

    begin: int
    end: int
    plain: Estimate
    scaled: Estimate
    log_ratio: Estimate


@dataclass(frozen=True, slots=True)
class Hidden:
    """How many numbers hidden in prompts of some lengths are found.

    Args:
        lengths: Tokens of the prompts.
        plain, scaled: Without and with the settings.
        changed: The same numbers beside each other.
    """

    lengths: tuple[int, ...]
    plain: Share
    scaled: Share
    changed: Paired


@dataclass(frozen=True, slots=True)
class ContextEffect:
    """What was found.

    Args:
        model: Its name.
        flags: What is measured, as it is typed; empty for what the file does by itself.
        against: What it is compared with, as a name.
        trained: Tokens that the model reaches without.
        length: Tokens that it is to reach.
        reach: Tokens of the longest prompts that were measured.
        short_tokens: Tokens of the short prompts.
        short: The comparison on them.
        plain, scaled: Perplexity on them.
        mode: `exact`, or `bounded`, which makes the divergence a lower bound.
        text: Name of the text that was read.
        places: Perplexity within and beyond the trained length; empty where it was not measured.
        hidden: The same of hidden numbers.
        notes: What the reader should know.
        took_s: Seconds.
        command: What prints it again.
    """

    model: str
    flags: str
    against: str
    trained: int
    length: int
    reach: int
    short_tokens: int
    short: Divergence
    plain: Estimate
    scaled: Estimate
    mode: str
    text: str
    places: tuple[Stretch, ...]
    hidden: tuple[Hidden, ...]
    notes: tuple[str, ...]
    took_s: float
    command: str

    def as_mapping(self) -> dict[str, Any]:
        """Return it as plain data, for JSON, with the lines that say it."""
        return {**plain(asdict(self)), "lines": [list(pair) for pair in self.lines()]}

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what was found, as (what, in words) pairs; intervals are of 95%."""
        bound = "at least " if self.mode == "bounded" else ""
        mean, top = self.short.mean, self.short.same_top
        near = interval_text(mean.low, mean.high, lambda value: f"{value:.3g}")
        same = f"same top token {top.value:.1%} ({interval_text(top.low, top.high, lambda value: f'{value:.1%}')})"
        counts = f"{self.short_tokens:,} tokens, {self.short.tokens:,} compared"
        yield "short prompts", f"{counts}: mean KL divergence {bound}{mean.value:.3g} nats ({near}), {same}"
        yield "", f"perplexity {_pair(self.scaled, self.plain, self.short.log_ratio)}"
        for name, place in zip(("within training", "beyond"), self.places, strict=False):
            ratio = _pair(place.scaled, place.plain, place.log_ratio)
            yield name, f"places {place.begin:,} to {place.end:,}: perplexity {ratio}"
        for one in self.hidden:
            lengths = " and ".join(f"{length:,}" for length in one.lengths)
            shares = f"{share_text(one.scaled)} found instead of {share_text(one.plain)}"
            yield "hidden numbers", f"prompts of {lengths} tokens: {shares}, p {p_text(one.changed.p_value)}"

    def record(self, plan: EffectPlan) -> MeasuredEffect:
        """Return what the cards of the knobs show of it."""
        mean, ratio = self.short.mean, math.exp(self.short.log_ratio.value)
        parts = [
            f"short prompts: mean KL divergence {mean.value:.3g} ± {mean.error:.1g}, same top token "
            f"{self.short.same_top.value:.1%}, perplexity {ratio - 1:+.1%}"
        ]
        numbers = {
            "kld_mean": mean.value, "kld_mean_error": mean.error, "same_top": self.short.same_top.value,
            "perplexity": self.scaled.value, "perplexity_before": self.plain.value,
        }  # fmt: skip
        beyond = []
        if len(self.places) > 1:
            place = self.places[1]
            beyond.append(f"perplexity {place.scaled.value:.4g} instead of {place.plain.value:.4g}")
            numbers |= {"perplexity_beyond": place.scaled.value, "perplexity_beyond_before": place.plain.value}
        if far := [one for one in self.hidden if one.lengths[-1] > self.trained]:
            beyond.append(f"hidden numbers found {far[-1].scaled.value:.0%} instead of {far[-1].plain.value:.0%}")
            numbers |= {"needle": far[-1].scaled.value, "needle_before": far[-1].plain.value}
        if beyond:
            parts.append(f"past {self.trained:,} of {self.reach:,} tokens: {', '.join(beyond)}")
        return MeasuredEffect(
            lever="context", settings=plan.turned, model=self.model, against=self.against, text="; ".join(parts),
            numbers={name: value for name, value in numbers.items() if math.isfinite(value)}, command=self.command,
        )  # fmt: skip


def _pair(now: Estimate, before: Estimate, log_ratio: Estimate) -> str:
    ratio = interval_text(math.exp(log_ratio.low), math.exp(log_ratio.high), lambda value: f"{value:.3g}")
    return (
        f"{_number(now)} instead of {_number(before)}; times {math.exp(log_ratio.value):.3g} ({ratio} over the chunks)"
    )


def _number(found: Estimate) -> str:
    return f"{found.value:,.4g}" if found.value < 10_000 else f"{found.value:,.0f}"


def measure_effect(plan: EffectPlan) -> Job[ContextEffect]:
    """Measure.

    Args:
        plan: What `plan_effect` returned.

    Yields:
        Progress in tokens or numbers, and numbers so far. What was measured is kept, so that a stopped run goes on.

    Raises:
        BadValue: a text too short for two short prompts.
        NotEnough: not even a short prompt fits into memory.
        EngineDied: the measuring process ended.
    """
    began, notes = monotonic(), []
    reaches = _fitting(plan)
    if plan.length > plan.trained and not reaches:
        notes.append(
            f"Beyond {plan.trained:,} tokens nothing was measured: two caches of that length need more memory."
        )
    session = Session(plan.scaled.settings.threads or physical_cores())
    try:
        short_plan = plan_eval(plan.short_config(plan.minutes * (SHORT_SHARE if reaches else 1)))
        found = yield from _run(short_plan, session)
        assert found.text is not None
        reach, left = plan.short_tokens, plan.minutes - (monotonic() - began) / 60
        places: tuple[Stretch, ...] = ()
        hidden: tuple[Hidden, ...] = ()
        if reaches:
            reach, why = _affordable(plan, reaches, found, left)
            notes += [why] if why else []
        if reach > plan.trained:
            read = found.text.used.tokens >= reach
            if not read:
                notes.append(
                    f"The text has {found.text.used.tokens:,} tokens, too few to be read in pieces of {reach:,}: "
                    "perplexity beyond the trained length needs a longer one (--text)."
                )
            minutes = max(0.05, left) if plan.minutes else 0.0
            long_plan = plan_eval(plan.long_config(reach, minutes, read=read))
            far = yield from _run(long_plan, session)
            places, hidden = _stretches(far, plan.trained), _hidden(long_plan, far, plan.trained)
    finally:
        session.close()
    for text in notes:
        yield Noted(text)
    readings = found.text
    return ContextEffect(
        model=plan.name, flags=plan.scaled.flags, against=plan.plain.label, trained=plan.trained, length=plan.length,
        reach=reach, short_tokens=plan.short_tokens, short=readings.divergence(1),
        plain=perplexity_of(readings.surprises[0]), scaled=perplexity_of(readings.surprises[1]), mode=readings.mode,
        text=text_name(plan.text), places=places, hidden=hidden, notes=tuple(notes), took_s=monotonic() - began,
        command=plan.command,
    )  # fmt: skip


def _run(plan: EvalPlan, session: Session) -> Job[Found]:
    for note in plan.notes:
        yield Noted(note)
    return (yield from Stages(plan, session).run())


def _fitting(plan: EffectPlan) -> tuple[int, ...]:
    """Return the lengths of which two caches fit beside the weights; they are the same file, read twice."""
    settings, free = plan.scaled.settings, available_memory_bytes()
    weights = sum(file.stat().st_size for file in shard_paths(plan.header))
    caches = {reach: cache_bytes(plan.header, replace(settings, n_ctx=reach)) for reach in plan.reaches}
    return tuple(reach for reach in plan.reaches if not free or 2 * caches[reach] + weights < free)


def _affordable(plan: EffectPlan, reaches: Sequence[int], found: Found, left_minutes: float) -> tuple[int, str]:
    """Return the longest prompt that the time allows, by how fast short ones were read, and what to say about it."""
    wanted = reaches[0]
    if not plan.minutes:
        return wanted, ""
    time = next((one for one in found.times if one.stage == "text"), None)
    if time is None or not time.seconds:  # all of the short part was kept from before
        shortest = reaches[-1]
        if shortest == wanted:
            return wanted, ""
        return shortest, (
            f"Measured to {shortest:,} of {wanted:,} tokens only: how fast this is was not timed anew. "
            "--minutes 0 measures all."
        )
    needed = {reach: 2 * LEAST_READ * reach * time.seconds / time.units for reach in reaches}
    reach = next((reach for reach in reaches if needed[reach] <= 60 * left_minutes), plan.short_tokens)
    if reach == wanted:
        return reach, ""
    measured = f"to {reach:,} of {wanted:,} tokens only" if reach > plan.trained else "on short prompts only"
    return reach, (
        f"Measured {measured}: prompts of {wanted:,} tokens take at least {time_text(needed[wanted])} here "
        "(--minutes M gives more time, --minutes 0 as much as it takes)."
    )


def _stretches(found: Found, trained: int) -> tuple[Stretch, ...]:
    """Return perplexity within and beyond the trained length."""
    if not found.position:
        return ()
    surprises = found.position.surprises
    whole = len(surprises[0][0])

    def part(begin: int, end: int) -> Stretch:
        base: list[Floats] = [chunk[begin:end] for chunk in surprises[0]]
        own: list[Floats] = [chunk[begin:end] for chunk in surprises[1]]
        ratio = mean_of([now - before for now, before in zip(own, base, strict=True)])
        return Stretch(begin + 1, end, perplexity_of(base), perplexity_of(own), ratio)

    return (part(0, trained), part(trained, whole)) if whole > trained else (part(0, whole),)


def _hidden(plan: EvalPlan, found: Found, trained: int) -> tuple[Hidden, ...]:
    """Return hidden numbers found within and beyond the trained length."""
    groups = []
    for beyond in (False, True):
        cells = [
            cell for cell in plan.needle_cells if cell["cell"] in found.needles[0]
            and (cell["length"] > trained) == beyond
        ]  # fmt: skip
        if cells:
            base, own = ([found.needles[number][cell["cell"]]["found"] for cell in cells] for number in (0, 1))
            lengths = tuple(sorted({cell["length"] for cell in cells}))
            groups.append(Hidden(lengths, share_of(base), share_of(own), paired(base, own)))
    return tuple(groups)
