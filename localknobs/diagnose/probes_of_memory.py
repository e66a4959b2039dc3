"""Probes that ask what a model takes: time, memory, and length."""

from __future__ import annotations

from dataclasses import replace

from localknobs.bandwidth import bandwidth
from localknobs.bench.config import BenchConfig
from localknobs.bench.run import bench
from localknobs.diagnose.finding import Case, Finding, Remedy, command, turned
from localknobs.engine import LoadSettings, load
from localknobs.engine.target_length import target_length
from localknobs.errors import LocalknobsError
from localknobs.fit.advice import READING_PACE, Adviser, advise, usual_context
from localknobs.fit.choices import local_choices
from localknobs.fit.machine import this_machine
from localknobs.fit.planning import Planning
from localknobs.fit.speed import reads_of
from localknobs.gguf_info import read_header
from localknobs.hardware import available_memory_bytes, physical_cores
from localknobs.jobs import Job, Started
from localknobs.units import size_text

BOUND_SHARE = 0.5
"""Share of the memory's bandwidth from which reading weights is what takes the time."""


def slow(case: Case) -> Job[Finding]:
    """Measure the speed with one thread and with all, and compare it with the memory's bandwidth."""
    threads = tuple(sorted({1, physical_cores()}))
    config = BenchConfig(case.model, {"threads": threads}, prompt=64, generate=24, repetitions=2)
    results = [one for one in (yield from bench(config)) if one.generation]
    best = max(results, key=lambda one: one.generation_speed)
    speed = best.generation_speed
    header = read_header(case.model)
    bytes_per_s = speed * reads_of((header,)).active
    numbers = {
        "tokens_per_s": round(speed, 1), "prompt_tokens_per_s": round(best.prompt_speed, 1),
        "threads": best.case.settings.threads, "read_GB_per_s": round(bytes_per_s / 1e9, 2),
    }  # fmt: skip
    on_card = any(device != "CPU" for device in best.devices)
    memory = 0.0 if on_card else bandwidth().memory
    text = f"It writes {speed:,.1f} tokens a second here, best with {threads_text(best.case.settings.threads)}"
    text += f" (one reads about {READING_PACE:.0f})."
    bound = memory > 0 and bytes_per_s >= BOUND_SHARE * memory
    if memory:
        numbers["memory_GB_per_s"] = round(memory / 1e9, 1)
        text += f" That reads {bytes_per_s / 1e9:.1f} of the {memory / 1e9:.0f} GB/s that the memory gives: "
        text += "fewer bits a weight make it faster." if bound else "the memory is not what holds it back."
    remedies = []
    if bound or on_card:
        remedies.append(Remedy("fewer bits a weight, which read fewer bytes", command("quantize", case.name, "Q4_K_M")))
    remedies.append(turned("guess several tokens at once from the text so far", case, draft="ngram"))
    again = command("bench", case.name, "-t", ",".join(map(str, threads)))
    return Finding("confirmed" if speed < READING_PACE else "rejected", text, numbers, tuple(remedies), again)


def threads_text(count: int) -> str:
    """Return a count of threads in words."""
    return f"{count} thread{'s' if count > 1 else ''}"


def memory(case: Case) -> Job[Finding]:
    """Plan the memory; say which part is too large."""
    yield Started("planning the memory", 0, "steps")
    machine = this_machine()
    with Planning() as planning:
        choices = local_choices(str(case.model), machine, planning)
        header = choices.reference.headers[0]
        settings = LoadSettings(model=case.model, **case.loading)  # type: ignore[arg-type]
        settings = replace(settings, n_ctx=settings.n_ctx or usual_context(header))
        row = Adviser(choices.reference, settings).row(choices.candidates[0])
        choices.close()
    advice = advise([row], machine, settings.n_ctx)
    bill = row.bill
    numbers = {
        "weights_MiB": round(bill.weights / 2**20, 1), "cache_MiB": round(bill.cache / 2**20, 1),
        "compute_MiB": round(bill.compute / 2**20, 1), "context": settings.n_ctx, "largest_context": row.context,
    }  # fmt: skip
    text = (
        f"With {settings.n_ctx:,} tokens of context: weights {size_text(bill.weights)}, cache {size_text(bill.cache)}, "
        f"buffers {size_text(bill.compute)}. {advice.reason}"
    )
    cache_first = [
        turned("a cache of 8 bits: half the size, little loss", case, cache_type_k="q8_0", cache_type_v="q8_0"),
        turned("a shorter context", case, n_ctx=max(512, row.context or settings.n_ctx // 2)),
    ]
    bits = Remedy("fewer bits a weight", command("quantize", case.name, "Q4_K_M"))
    remedies = [*cache_first, bits] if bill.cache > bill.weights or row.verdict == "context" else [bits, *cache_first]
    fits = row.verdict == "fits"
    again = command("fit", case.name, "-c", settings.n_ctx)
    return Finding("rejected" if fits else "confirmed", text, numbers, () if fits else tuple(remedies), again)


def long_prompt(case: Case) -> Job[Finding]:
    """Count the prompt's tokens, and compare them with the trained context."""
    header = read_header(case.model)
    trained = header.context_trained
    if not case.prompt:
        text = f"The model was trained with {trained:,} tokens of context. Give the prompt (-p, or a pipe) to count it."
        return Finding("open", text, {"trained_context": trained}, (), command("context", case.name))
    yield Started("counting tokens", 0, "steps")
    with load(LoadSettings(model=case.model, **{**case.loading, "n_ctx": 512})) as engine:  # type: ignore[arg-type]
        tokens = engine.count_tokens([{"role": "user", "content": case.prompt}])
    numbers = {"prompt_tokens": tokens, "trained_context": trained}
    text = f"The prompt has {tokens:,} tokens; the model was trained with {trained:,}."
    if tokens < trained:
        return Finding(
            "rejected", text + " It fits, with room for an answer.", numbers, (), command("context", case.name)
        )
    needed = tokens + max(512, tokens // 4)
    remedies = []
    try:
        found = target_length(header, needed, free_bytes=available_memory_bytes())
        text += f" To reach {needed:,}: {found.proposed.name}; {found.proposed.short_prompts}"
        farther = command("chat", case.name, "--target-ctx", needed)
        remedies.append(Remedy("scale RoPE, and measure it", farther, found.proposed.values))
    except LocalknobsError as error:
        text += f" {error}"
    remedies.append(Remedy("or let the oldest go when the context is full", command("knobs", "context")))
    return Finding("confirmed", text, numbers, tuple(remedies), command("context", case.name, "--target-ctx", needed))
