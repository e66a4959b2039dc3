"""A report as tables of text: the same cells for the terminal and the page, each with the suite that it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localknobs.evaluate.results import ModelResult, NeedleCell, Paired, Report, Share
from localknobs.evaluate.statistics import Estimate, mcnemar
from localknobs.units import size_text


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with a heading.

    Args:
        title: What it shows.
        suites: Suites its numbers come from, as `--suite` takes them.
        headings: One a column; the first column names the row.
        rows: Cells.
        about: Sentences that say how the numbers are to be read.
    """

    title: str
    suites: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    about: tuple[str, ...] = ()


def estimate_text(found: Estimate, digits: int = 4) -> str:
    """Return a number with its error, at as many digits as the error leaves meaning."""
    if not math.isfinite(found.error) or found.error == 0:
        return f"{found.value:.{digits}g}"
    if abs(found.value) < 1e-4:
        return f"{found.value:.2e} ± {found.error:.1e}"
    # Two digits of the error, and the value to the same place.
    place = max(0, min(9, 1 - math.floor(math.log10(found.error))))
    return f"{found.value:.{place}f} ± {found.error:.{place}f}"


def interval_text(low: float, high: float, show: Callable[[float], str]) -> str:
    """Return an interval; a dash where there is none."""
    return f"{show(low)} to {show(high)}" if math.isfinite(low) and math.isfinite(high) else "-"


def share_text(share: Share) -> str:
    """Return a share with its 95% interval."""
    if not share.count:
        return "-"
    return f"{share.value:.1%} ({share.low:.0%} to {share.high:.0%})"


def p_text(value: float) -> str:
    """Return a chance, as `p` is written."""
    if math.isnan(value):
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def paired_text(pairs: Paired | None) -> str:
    """Return what changed against the parent."""
    return f"-{pairs.lost} +{pairs.gained}, p {p_text(pairs.p_value)}" if pairs else ""


def tables_of(report: Report) -> list[Table]:
    """Return every table of a report that has numbers."""
    made = (_overview(report), _divergence(report), _tasks(report), _groups(report), _forgetting(report),
            _needles(report), _position(report), _speed(report))  # fmt: skip
    return [table for table in made if table is not None]


def _overview(report: Report) -> Table:
    models = report.models
    headings = ["model", "size", "bits/weight", "memory"]
    columns: list[Sequence[str]] = [
        [model.label for model in models],
        [size_text(model.size_bytes) for model in models],
        [f"{model.bits_per_weight:.2f}" for model in models],
        [f"{size_text(model.memory_bytes)} at {model.context:,}" for model in models],
    ]
    suites, about = [], ["Memory: weights, key-value cache and computation at that many tokens of context."]
    if any(model.speed for model in models):
        headings.append("tokens/s")
        columns.append([f"{model.speed.generation:,.1f}" if model.speed else "" for model in models])
        suites.append("speed")
    if any(model.perplexity for model in models):
        headings.append("perplexity")
        columns.append([estimate_text(model.perplexity) if model.perplexity else "" for model in models])
        suites.append("ppl")
        about.append("Perplexity ± one standard error, as llama-perplexity counts it; lower is better.")
    if any(model.divergence for model in models):
        headings += ["KLD mean", "KLD 99.9%", "same top"]
        bound = {"exact": "", "bounded": "≥ ", "": ""}
        columns.append([
            bound[model.mode] + estimate_text(model.divergence.mean) if model.divergence else "" for model in models
        ])  # fmt: skip
        columns.append([f"{model.divergence.percentile_999:.4g}" if model.divergence else "" for model in models])
        columns.append([f"{model.divergence.same_top.value:.2%}" if model.divergence else "" for model in models])
        suites.append("kld")
    if any(model.tasks for model in models):
        headings.append("tasks right")
        columns.append([_all_tasks(model) for model in models])
        suites.append("tasks")
    if report.text:
        about += [text_sentence(report)]
        if any(model.perplexity and model.perplexity.value > 2000 for model in models):
            about.append("A perplexity this high means that the text is strange to the model: a text of its own kind "
                         "(--text) tells more.")  # fmt: skip
    return Table("Overview", ",".join(suites), tuple(headings), tuple(zip(*columns, strict=True)), tuple(about))


def text_sentence(report: Report) -> str:
    """Say which text was read, and how much of it."""
    used = report.text
    assert used is not None
    why = f", {used.why}" if used.why else ""
    return (
        f"Text: {used.name}, {used.predicted:,} tokens predicted in {used.chunks} of {used.chunks_whole} chunks of "
        f"{used.chunk_tokens}{why}."
    )


def _all_tasks(model: ModelResult) -> str:
    right, count = (sum(getattr(task.share, name) for task in model.tasks) for name in ("right", "count"))
    return f"{right} of {count}" if count else ""


def _divergence(report: Report) -> Table | None:
    models = [model for model in report.models if model.divergence]
    if not models:
        return None
    rows = []
    for model in models:
        found = model.divergence
        assert found is not None
        rows.append((
            model.label, interval_text(found.mean.low, found.mean.high, lambda value: f"{value:.3g}"),
            f"{found.median:.3g}", f"{found.percentile_99:.3g}", f"{found.largest:.3g}",
            f"{found.same_top.value:.2%} ± {found.same_top.error:.2%}",
            f"{found.mean_change.value:+.3%} ± {found.mean_change.error:.3%}", f"{found.rms_change.value:.3%}",
            f"{math.exp(found.log_ratio.value):.4f} ({math.exp(found.log_ratio.low):.4f} to "
            f"{math.exp(found.log_ratio.high):.4f})", p_text(found.p_value),
        ))  # fmt: skip
    modes = {model.mode for model in models}
    about = [
        "KL divergence in nats, of the next token's distribution from the parent's; 95% intervals from whole chunks.",
        "Change of p: of the right token's probability, mean and root mean square. p: chance of such a difference of "
        "perplexity if there were none (paired over chunks).",
    ]
    if "bounded" in modes:
        outside = max(model.outside for model in models)
        about.append(
            "Bounded mode: a lower bound. Of each token the parent's likeliest 256 followers were compared; all "
            f"others, {outside:.2%} of the probability, count as one."
        )
    else:
        about.append("Exact mode: parent and model were open together, and every token of the vocabulary was compared.")
    return Table(
        f"KL divergence from {report.base}", "kld",
        ("model", "mean, 95%", "median", "99%", "largest", "same top token", "mean change of p", "rms change of p",
         "perplexity ratio, 95%", "p"), tuple(rows), tuple(about),
    )  # fmt: skip


def _tasks(report: Report) -> Table | None:
    models = [model for model in report.models if model.tasks]
    if not models:
        return None
    headings = ["model", *(f"{task.suite} ({task.share.count})" for task in models[0].tasks)]
    rows = [(model.label, *(share_text(task.share) for task in model.tasks)) for model in models]
    about = ["Right answers with their 95% intervals (Wilson), at temperature 0."]
    if report.base:
        headings.append(f"against {report.base}")
        for at, model in enumerate(models):
            pairs = [task.paired for task in model.tasks if task.paired]
            lost, gained = sum(pair.lost for pair in pairs), sum(pair.gained for pair in pairs)
            rows[at] += (paired_text(Paired(lost, gained, mcnemar(lost, gained))) if pairs else "",)
        about.append(
            "-2 +1: two answers were right only before, one only now; p: chance of that if neither were better "
            "(McNemar, exact)."
        )
    for task in models[0].tasks:
        if task.share.count < task.items:
            about.append(
                f"{task.suite}: {task.share.count} of {task.items} questions, as many as the time allowed, "
                f"drawn with seed {report.seed}."
            )
    if any(task.by_length for task in models[0].tasks):
        parts = [
            f"{model.label} {share_text(task.by_length)}" for model in models for task in model.tasks if task.by_length
        ]
        about.append(f"Choices compared by log-probability a byte: {'; '.join(parts)}.")
    return Table("Tasks", "tasks", tuple(headings), tuple(rows), tuple(about))


def _groups(report: Report) -> Table | None:
    models = [model for model in report.models if any(task.groups for task in model.tasks)]
    if not models:
        return None
    names = [(task.suite, name) for task in models[0].tasks for name, _ in task.groups]
    rows = []
    for suite, name in names:
        cells = [
            share_text(share)
            for model in models
            for task in model.tasks
            if task.suite == suite
            for group, share in task.groups
            if group == name
        ]
        rows.append((f"{suite}: {name}", *cells))
    return Table("Tasks by group", "tasks", ("group", *(model.label for model in models)), tuple(rows))


def _forgetting(report: Report) -> Table | None:
    models = [model for model in report.models if model.forgetting]
    if not models:
        return None
    rows = []
    for model in models:
        found = model.forgetting
        assert found is not None
        rows.append((
            model.label, f"{math.exp(found.divergence.log_ratio.value):.4f}", estimate_text(found.divergence.mean),
            share_text(found.share), paired_text(found.paired),
        ))  # fmt: skip
    about = (
        "General text and tasks that are shipped, before and after; the perplexity ratio is after / before.",
        *(f"{model.label}: {model.forgetting.verdict}" for model in models if model.forgetting),
    )
    return Table(
        f"Forgetting, against {report.base}", "forgetting",
        ("model", "perplexity ratio", "KLD mean", "general tasks", "changed"), tuple(rows), about,
    )  # fmt: skip


NEEDLES_FOUND = {
    "logprob": "each of its digits is the likeliest, and the mean log-probability of the whole number in nats (0 is "
    "certain).",
    "generate": "it stands in the answer that the model wrote at temperature 0.",
}


def needle_texts(cell: NeedleCell) -> tuple[str, ...]:
    """Return how many of a cell's needles were found, and the log-probability where there is one."""
    found = f"{cell.share.right}/{cell.share.count}"
    return (found, f"{cell.log_probability:.2f}") if math.isfinite(cell.log_probability) else (found,)


def _needles(report: Report) -> Table | None:
    models = [model for model in report.models if model.needle]
    if not models:
        return None
    first = models[0].needle
    assert first is not None
    lengths = sorted({cell.length for cell in first.cells})
    rows, totals = [], []
    for model in models:
        assert model.needle is not None
        for at, depth in enumerate(sorted({cell.depth for cell in model.needle.cells})):
            cells = {cell.length: cell for cell in model.needle.cells if cell.depth == depth}
            rows.append((
                "" if at else model.label, f"{depth:.0%}",
                *("  ".join(needle_texts(cells[length])) if length in cells else "" for length in lengths),
            ))  # fmt: skip
        changed = f"; against {report.base} {paired_text(model.needle.paired)}" if model.needle.paired else ""
        totals.append(f"{model.label}: {share_text(model.needle.share)} of all found{changed}.")
    about = (
        "A number said once in a text of that many tokens, at that depth (0% is the beginning): found when "
        + NEEDLES_FOUND[first.mode],
        *totals,
    )
    return Table("Needles", "needle", ("model", "depth", *(f"{length:,}" for length in lengths)), tuple(rows), about)


def _position(report: Report) -> Table | None:
    models = [model for model in report.models if model.position]
    if not models:
        return None
    rows = []
    for at, bucket in enumerate(models[0].position):
        cells = [estimate_text(model.position[at].perplexity) for model in models]
        cells += [
            estimate_text(found) if (found := model.position[at].divergence) else ""
            for model in models
            if model.position[0].divergence
        ]
        rows.append((f"{bucket.begin:,} to {bucket.end - 1:,}", *cells))
    headings = [f"{model.label}: perplexity" for model in models]
    headings += [f"{model.label}: KLD" for model in models if model.position[0].divergence]
    used = report.position_text
    assert used is not None
    about = (f"Tokens at these places of {used.chunks} chunks of {used.chunk_tokens:,} tokens of {used.name}.",)
    return Table("Perplexity by place in the context", "position", ("places", *headings), tuple(rows), about)


def _speed(report: Report) -> Table | None:
    models = [model for model in report.models if model.speed]
    if not models:
        return None
    rows = []
    for model in models:
        found = model.speed
        assert found is not None
        rows.append((
            model.label, f"{found.prompt:,.1f}", interval_text(found.prompt_low, found.prompt_high, "{:,.0f}".format),
            f"{found.generation:,.1f}", interval_text(found.generation_low, found.generation_high, "{:,.0f}".format),
        ))  # fmt: skip
    first = models[0].speed
    assert first is not None
    about = (
        f"Tokens a second on {report.threads} thread{'s' * (report.threads != 1)}: median and range of {first.rounds} "
        f"round{'s' * (first.rounds != 1)} in which the models took turns; {first.prompt_tokens} tokens read (pp), "
        f"{first.generated_tokens} written (tg), each from an empty cache.",
    )
    return Table(
        "Speed", "speed",
        ("model", f"pp{first.prompt_tokens}", "range", f"tg{first.generated_tokens}", "range "), tuple(rows), about,
    )  # fmt: skip
