"""The table of symptoms: what is seen, which lever is tried first, and the probe that checks whether it is that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from localknobs.diagnose import probes_of_answers, probes_of_memory
from localknobs.diagnose.finding import Case, Finding
from localknobs.errors import LocalknobsError, NotFound
from localknobs.jobs import Found, Job, Started


@dataclass(frozen=True, slots=True)
class Symptom:
    """A row of the table.

    Args:
        key: What is typed.
        seen: What the user sees, in their words.
        check: What the probe measures, before any lever is touched.
        lever: The lever that is tried first; empty where no lever helps.
        other: What helps instead or after it.
        words: Other words for it.
        probe: The job that measures; None where there is nothing to measure.
    """

    key: str
    seen: str
    check: str
    lever: str
    other: str
    words: tuple[str, ...]
    probe: Callable[[Case], Job[Finding]] | None


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "niche", "bad at my niche task", "the chat template, then your own tasks (--tasks)",
        "finetune", "examples in the prompt first, which cost nothing; then LoRA",
        ("task", "wrong", "quality", "style", "domain"), probes_of_answers.niche,
    ),
    Symptom(
        "slow", "too slow or too expensive", "tokens a second against what the memory allows, over threads",
        "quantize", "fewer bits a weight, which read fewer bytes a token; then speculation (decode)",
        ("speed", "expensive", "tokens", "lag"), probes_of_memory.slow,
    ),
    Symptom(
        "memory", "does not fit", "weights, cache and buffers, planned with nothing loaded",
        "quantize", "the cache first (-c, -ctk) where it is the larger part; then fewer bits; then pruning",
        ("vram", "ram", "fit", "oom", "crash"), probes_of_memory.memory,
    ),
    Symptom(
        "long-prompt", "the prompt is too long", "its tokens against the context the model was trained with",
        "context", "YaRN or NTK; sinks and a window for endless text; else a model made for length",
        ("context", "length", "truncated", "cut"), probes_of_memory.long_prompt,
    ),
    Symptom(
        "middle", "forgets the middle of a long prompt", "numbers hidden at the beginning, middle and end",
        "", "no knob helps: put what matters first or last, and retrieve less",
        ("lost", "forget", "needle", "recall"), probes_of_answers.middle,
    ),
    Symptom(
        "random", "answers contradict each other", "the same prompt again, at temperature 0 and as set",
        "decode", "a lower temperature, top-p, or a fixed seed",
        ("inconsistent", "contradict", "different", "creative"), probes_of_answers.random,
    ),
    Symptom(
        "loops", "repeats itself", "how much of an answer repeats, as set and with DRY",
        "decode", "DRY or a repeat penalty; a file of more bits where the quantization caused it",
        ("repeat", "repetition", "stuck", "again"), probes_of_answers.loops,
    ),
    Symptom(
        "facts", "invents facts", "nothing: no setting knows what is true",
        "", "no lever helps: give it the sources in the prompt (retrieval), or check what it says",
        ("hallucinate", "hallucination", "lies", "invents", "false"), None,
    ),
)  # fmt: skip


def find_symptom(text: str) -> Symptom:
    """Return the symptom that a user names, by its key or in words.

    Raises:
        NotFound: none is meant, or several.
    """
    low = text.lower().strip()
    asked = set(low.replace("-", " ").split())
    exact = [row for row in SYMPTOMS if row.key == low]
    alike = [
        row
        for row in SYMPTOMS
        if asked & {*row.key.split("-"), *row.words, *row.seen.lower().split()} - {"the", "is", "a", "my", "too", "or"}
    ]
    found = exact or alike
    if len(found) == 1:
        return found[0]
    keys = [row.key for row in (found or SYMPTOMS)]
    near = get_close_matches(low, keys, n=1, cutoff=0.6)
    if near and not found:
        return next(row for row in SYMPTOMS if row.key == near[0])
    what = "means several symptoms" if found else "is no symptom in the table"
    raise NotFound(f"{text!r} {what}", f"Name one of: {', '.join(keys)}.")


def diagnose(symptom: Symptom, case: Case) -> Job[Finding]:
    """Probe one symptom on one model.

    Raises:
        LocalknobsError: the probe cannot be made: the model cannot be loaded, and so on.
    """
    if symptom.probe is None:
        return Finding("open", f"{symptom.check[0].upper()}{symptom.check[1:]}. {_sentence(symptom.other)}")
    return (yield from symptom.probe(case))


def finding_as_mapping(symptom: Symptom, finding: Finding, model: str) -> dict[str, Any]:
    """Return a finding as plain data, with its symptom and what the user calls the model."""
    return {
        "symptom": symptom.key, "seen": symptom.seen, "check": symptom.check, "lever": symptom.lever, "model": model,
        **asdict(finding),
    }  # fmt: skip


def diagnose_all(case: Case, found: list[tuple[Symptom, Finding]]) -> Job[None]:
    """Probe every symptom, one after another; a probe that cannot be made is a finding too, and stops no other.

    Each is told as soon as it is made.

    Args:
        case: What is complained about.
        found: Takes each finding as soon as it is made, so that a run that is stopped keeps them.
    """
    for symptom in SYMPTOMS:
        yield Started(f"{symptom.seen}: probing", 0, "steps")
        try:
            finding = yield from diagnose(symptom, case)
        except LocalknobsError as error:
            finding = Finding("open", f"It could not be probed: {error}")
        found.append((symptom, finding))
        yield Found(finding_as_mapping(symptom, finding, case.name))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
