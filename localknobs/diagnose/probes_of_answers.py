"""Probes that look at what a model writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from localknobs.determinism import DeterminismConfig, check_determinism
from localknobs.diagnose.finding import Case, Finding, Remedy, command, turned
from localknobs.engine import LoadSettings, load
from localknobs.engine.client import Engine
from localknobs.engine.events import TextArrived
from localknobs.evaluate.config import EvalConfig, Variant
from localknobs.evaluate.results import Report
from localknobs.evaluate.run import evaluate, plan_eval
from localknobs.gguf_info import read_header
from localknobs.jobs import Advanced, Job, Started
from localknobs.knobs import Value, defaults
from localknobs.presets import preset

RUN_WORDS = 4
"""Words in a row that count as one repetition when they come again."""
LOOP_SHARE = 0.2
"""Share of repeated runs from which an answer counts as a loop; ordinary prose stays below a few percent."""
ANSWER_TOKENS = 200
LOOP_PROMPT = "Tell me a long story about a lighthouse keeper and the sea."
RANDOM_PROMPT = "What is the best way to learn a language?"
NEEDED_GAP = 0.25
"""How much lower the middle must be for the symptom to count: with few needles less would be chance."""
NEEDLES, DEPTHS = 4, 5


def repeated_share(text: str) -> float:
    """Return which share of a text's runs of four words was there before in it, 0 to 1."""
    words = text.split()
    runs = Counter(tuple(words[at : at + RUN_WORDS]) for at in range(len(words) - RUN_WORDS + 1))
    total = sum(runs.values())
    return sum(count - 1 for count in runs.values()) / total if total else 0.0


def loops(case: Case) -> Job[Finding]:
    """Let it write, as set and with DRY; say how much of each repeats."""
    prompt = case.prompt or LOOP_PROMPT
    values = {**defaults("sampling"), **case.values}
    with _opened(case) as engine:
        yield Started("writing", 2, "steps")
        before = repeated_share(_answer(engine, prompt, {**values, "n_predict": ANSWER_TOKENS, "seed": case.seed}))
        yield Advanced(1)
        tried = {**values, "n_predict": ANSWER_TOKENS, "seed": case.seed, "dry_multiplier": 0.8}
        after = repeated_share(_answer(engine, prompt, tried))
        yield Advanced(1)
    numbers = {"repeated_share": round(before, 3), "with_dry": round(after, 3)}
    text = f"{before:.0%} of the runs of {RUN_WORDS} words in an answer were there before; with DRY {after:.0%}."
    verdict = "confirmed" if before >= LOOP_SHARE else "rejected"
    remedies: tuple[Remedy, ...] = ()
    if verdict == "confirmed":
        remedies = (
            turned("DRY, which acts on runs and not on single words", case, dry_multiplier=0.8),
            Remedy(
                "a file of more bits, if the parent does not loop: look at the 99.9% KL divergence",
                command("eval", case.name, "--base", "PARENT", "--suite", "kld"),
            ),
        )
    again = command("chat", case.name, "-p", prompt, "-n", ANSWER_TOKENS)
    return Finding(verdict, text, numbers, remedies, again)  # type: ignore[arg-type]


def random(case: Case) -> Job[Finding]:
    """Answer the same prompt several times, at temperature 0 and as set."""
    prompt = case.prompt or RANDOM_PROMPT
    values = {**defaults("sampling"), **case.values}
    with _opened(case) as engine:
        question = [{"role": "user", "content": prompt}]
        config = DeterminismConfig(question, values, runs=3, tokens=48)  # type: ignore[arg-type]
        verdict = yield from check_determinism(engine, config)
    numbers = {trial.name: trial.same / trial.runs for trial in verdict.trials if trial.runs}
    still = preset("deterministic")
    likeliest = command("chat", case.name, "--preset", still.name)
    remedies = [Remedy("the likeliest token always", likeliest, still.values)]
    if "seed" in verdict.causes:
        remedies.append(turned("or keep the variety and fix the seed", case, seed=case.seed))
    again = command("determinism", case.name, "-p", prompt)
    found = "rejected" if verdict.repeats else "confirmed"
    return Finding(found, " ".join(verdict.lines), numbers, () if verdict.repeats else tuple(remedies), again)  # type: ignore[arg-type]


def middle(case: Case) -> Job[Finding]:
    """Hide numbers at several depths of a text that nearly fills the context; compare the middle with the ends."""
    context = read_header(case.model).context_trained or 2048
    length = max(256, min(4096, context) * 9 // 10)
    report = yield from _measured(
        case, suites=("needle",), needle_lengths=(length,), needle_depths=DEPTHS, needles=NEEDLES
    )
    cells = report.models[-1].needle.cells if report.models[-1].needle else ()
    ends = [cell.share for cell in cells if cell.depth in (0.0, 1.0)]
    between = [cell.share for cell in cells if 0.0 < cell.depth < 1.0]
    at_ends = sum(share.right for share in ends) / max(1, sum(share.count for share in ends))
    inside = sum(share.right for share in between) / max(1, sum(share.count for share in between))
    numbers = {"found_at_the_ends": round(at_ends, 3), "found_between": round(inside, 3), "tokens": length}
    text = f"Of numbers hidden in {length:,} tokens it found {at_ends:.0%} at the ends and {inside:.0%} between."
    again = command("eval", case.name, "--suite", "needle", "--needle-lengths", length)
    if at_ends < NEEDED_GAP:
        return Finding("open", text + " It hardly finds any: this is not about the middle.", numbers, (), again)
    remedy = Remedy("no knob: put what matters first or last, and give it fewer documents")
    if at_ends - inside >= NEEDED_GAP:
        return Finding("confirmed", text, numbers, (remedy,), again)
    return Finding("rejected", text, numbers, (), again)


def niche(case: Case) -> Job[Finding]:
    """Look for a chat template; then score the user's own tasks."""
    header = read_header(case.model)
    if not header.chat_template:
        text = "The file has no chat template, so questions reach the model in a form it was not trained on."
        verify = Remedy("compare it with its checkpoint", command("verify", "CHECKPOINT", case.name))
        return Finding("confirmed", text, {}, (verify,), command("show", case.name))
    if case.tasks is None:
        text = (
            "It has a chat template. Whether it is bad at your task, only your task tells: give 20 or more examples "
            "with --tasks FILE (see docs/tasks.md)."
        )
        return Finding("open", text, {}, (), command("show", case.name))
    report = yield from _measured(case, suites=("tasks",), tasks=(str(case.tasks),))
    result = report.models[-1].tasks[0]
    share = result.share
    numbers = {"right": share.right, "of": share.count, "low": round(share.low, 3), "high": round(share.high, 3)}
    text = (
        f"{share.right} of {share.count} right ({share.value:.0%}, 95% interval {share.low:.0%} to {share.high:.0%})."
    )
    again = command("eval", case.name, "--suite", "tasks", "--tasks", case.tasks)
    if share.high < 0.8:
        remedies = (
            Remedy("two or three solved examples in the system prompt", command("chat", case.name, "-s", "EXAMPLES")),
            Remedy(
                "a LoRA adapter trained on such examples",
                command("finetune", "CHECKPOINT", "EXAMPLES.jsonl", "-o", "ADAPTER"),
            ),
        )
        return Finding("confirmed", text, numbers, remedies, again)
    return Finding("rejected" if share.low >= 0.8 else "open", text, numbers, (), again)


def _opened(case: Case) -> Engine:
    return load(LoadSettings(model=case.model, **case.loading))  # type: ignore[arg-type]


def _answer(engine: Engine, prompt: str, values: Mapping[str, Value]) -> str:
    events = engine.stream([{"role": "user", "content": prompt}], values)
    return "".join(event.text for event in events if isinstance(event, TextArrived))


def _measured(case: Case, **config: object) -> Job[Report]:
    variant = Variant(case.name, LoadSettings(model=case.model, **case.loading))  # type: ignore[arg-type]
    return (
        yield from evaluate(
            plan_eval(EvalConfig(models=(variant,), seed=case.seed, plan_memory=False, **config))  # type: ignore[arg-type]
        )
    )
