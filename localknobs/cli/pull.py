"""`localknobs pull`: fetch a model from the hub, after saying what it takes."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from localknobs.cli.output import ask, facts, note, print_json, table
from localknobs.cli.progress import run_job
from localknobs.errors import BadFile, LocalknobsError, Stopped, Unsupported
from localknobs.units import count_text, size_text

if TYPE_CHECKING:
    from localknobs.fit.advice import Advice, Row
    from localknobs.gguf_info import Header
    from localknobs.hub.plan import DownloadPlan
    from localknobs.hub.repository import Repository

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    add = parser.add_argument
    add(
        "spec", metavar="SPEC",
        help="org/repo, org/repo:Q4_K_M (the default, where there is one), org/repo:safetensors, org/repo/file.gguf, "
        "or a hub address",
    )  # fmt: skip
    add("--revision", metavar="NAME", help="branch, tag or commit; default: main")
    add("--mmproj", action="store_true", help="fetch the projector too, with which the model sees images")
    add("--limit-rate", metavar="RATE", type=_rate, default=0.0, help="most bytes per second, such as 5M or 800K")
    add("--dry-run", action="store_true", help="say what would be fetched and what else there is; fetch nothing")
    add("-y", "--yes", action="store_true", help="do not ask")
    add("--json", action="store_true", help="print one JSON object instead of text")


def run(options: Namespace) -> int:
    """Say what it takes, ask, fetch, and print where it lies."""
    from localknobs.hub.download import download
    from localknobs.hub.offline import refuse_offline
    from localknobs.hub.plan import check_space, plan_download
    from localknobs.hub.repository import open_repository
    from localknobs.hub.spec import parse_spec

    refuse_offline("pull")
    spec = parse_spec(options.spec, options.revision)
    repository = open_repository(spec)
    plan = plan_download(repository, spec, projector=options.mmproj, rate_limit=options.limit_rate)
    beginnings: dict[str, bytes] = {}
    headers = _headers(plan, beginnings) if plan.missing_bytes or options.dry_run else ()
    if options.dry_run:
        _show_dry_run(repository, plan, headers, options.json)
        return 0
    judged = _judged(headers, plan) if headers else None
    if not options.json:
        print(facts(_facts(repository, plan, headers, judged)), file=sys.stderr)
    check_space(plan)
    if plan.missing_bytes and not options.yes and sys.stdin.isatty() and sys.stderr.isatty():
        usable = judged is None or judged.advice.row is not None
        question = f"Fetch {size_text(plan.missing_bytes)}{'' if usable else ' all the same'}?"
        if not ask(question, default=usable):
            raise Stopped("Nothing was fetched", "Run it again with -y to fetch without being asked.")
    path = run_job(download(plan, beginnings), stopped="What was fetched is kept: the same command goes on from there.")
    if options.json:
        print_json({"path": path, **_summary(plan), "fit": _fit_document(judged)})
        return 0
    print(path)
    if plan.files[0].kind == "model":
        if trouble := _trouble(path):
            note(f"localknobs cannot use it: {trouble}")
            return 0
        quant = plan.files[0].quant
        is_name = quant and [file.quant for file in repository.files if file.kind == "model"].count(quant) == 1
        note(f"To chat with it: localknobs chat {f'{plan.repo}:{quant}' if is_name else path}")
    elif plan.files[0].kind == "checkpoint":
        note(f"To make a small file of it: localknobs quantize {path} Q4_K_M")
    return 0


def _trouble(path: Path) -> str:
    """Return why a fetched model cannot be loaded here, whatever the reason; empty when it can."""
    from localknobs.gguf_info import check_is_model, read_header

    try:
        check_is_model(read_header(path))
    except LocalknobsError as error:
        return str(error)
    return ""


def _rate(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)(?:B?(?:/S)?)", text.strip().upper())
    if not found or not float(found[1]):
        raise ArgumentTypeError(f"{text} is no rate: write bytes per second, such as 5M or 800K")
    return float(found[1]) * _UNITS[found[2]]


# ---- what it says beforehand ----------------------------------------------------------------------


def _headers(plan: DownloadPlan, beginnings: dict[str, bytes]) -> tuple[Header, ...]:
    """Return the headers of the model, read by ranges; those that cannot be read are a note, and no reason to stop.

    Raises:
        NotFound, HubFailure: the hub will not give the file either.
    """
    from localknobs.hub.remote import remote_headers
    from localknobs.hub.source import Unreachable

    if plan.files[0].kind != "model":
        return ()
    try:
        return remote_headers(plan.files[0], beginnings)
    except (BadFile, Unsupported, Unreachable) as error:
        note(f"Its header could not be read beforehand: {error.message}")
        return ()


class _Judged(NamedTuple):
    row: Row
    advice: Advice


def _judged(headers: tuple[Header, ...], plan: DownloadPlan) -> _Judged | None:
    """Return whether it fits this machine, as `localknobs fit` says it; None where that cannot be said."""
    from localknobs.engine import LoadSettings
    from localknobs.fit.advice import Adviser, Candidate, advise, usual_context
    from localknobs.fit.machine import this_machine
    from localknobs.fit.pricer import Pricer
    from localknobs.gguf_info.checks import check_can_load

    wished = usual_context(headers[0])
    try:
        check_can_load(headers[0])
        machine = this_machine()
        with Pricer(headers, machine) as pricer:
            candidate = Candidate(plan.files[0].quant or headers[0].quant, plan.files[0].size_bytes, pricer=pricer)
            adviser = Adviser(pricer, LoadSettings(model=headers[0].path, n_ctx=wished))
            row = adviser.row(candidate)
            return _Judged(row, advise([row], machine, wished))
    except LocalknobsError as error:
        note(f"Whether it fits cannot be said: {error.message}")
        return None


def _facts(
    repository: Repository, plan: DownloadPlan, headers: tuple[Header, ...], judged: _Judged | None
) -> list[tuple[str, object]]:
    from localknobs.hardware import free_disk_bytes

    names = [part.path for part in plan.parts]
    shown = names[0] if len(names) == 1 else f"{len(names)} files: {', '.join(names[:4])}{', …' * (len(names) > 4)}"
    here = plan.size_bytes - plan.missing_bytes
    size = size_text(plan.size_bytes)
    if here:
        size += " (all of it is here)" if not plan.missing_bytes else f" ({size_text(here)} of it are here)"
    free = free_disk_bytes(plan.folder)
    pairs: list[tuple[str, object]] = [("repository", plan.repo), ("file", shown), ("size", size)]
    if free:
        pairs.append(("free there", f"{size_text(free)} at {plan.folder}"))
    if repository.licence:
        pairs.append(("licence", repository.licence))
    if headers:
        parameters = sum(header.parameters for header in headers)
        pairs.append(("model", f"{headers[0].architecture}, {count_text(parameters)} parameters"))
        if headers[0].context_trained:
            pairs.append(("context", f"{headers[0].context_trained:,} tokens"))
    if judged:
        pairs.append(("fits", judged.advice.reason))
    projectors = [file for file in repository.files if file.kind == "projector"]
    if projectors and not any(file.kind == "projector" for file in plan.files):
        pairs.append(("images", f"with --mmproj, {size_text(min(file.size_bytes for file in projectors))} more"))
    return pairs


def _summary(plan: DownloadPlan) -> dict[str, Any]:
    return {
        "repo": plan.repo,
        "revision": plan.revision,
        "commit": plan.commit,
        "quant": plan.files[0].quant,
        "files": [{"path": part.path, "size_bytes": part.size_bytes} for part in plan.parts],
        "size_bytes": plan.size_bytes,
        "missing_bytes": plan.missing_bytes,
    }


def _fit_document(judged: _Judged | None) -> dict[str, Any] | None:
    if judged is None:
        return None
    row, advice = judged
    return {
        "verdict": row.verdict, "largest_context": row.context, "reason": advice.reason, "flags": advice.flags,
    }  # fmt: skip


def _show_dry_run(repository: Repository, plan: DownloadPlan, headers: tuple[Header, ...], as_json: bool) -> None:
    judged = _judged(headers, plan) if headers else None
    if as_json:
        everything = [
            {"path": file.path, "kind": file.kind, "quant": file.quant, "size_bytes": file.size_bytes,
             "files": len(file.parts)}
            for file in repository.files
        ]  # fmt: skip
        model = {
            "architecture": headers[0].architecture,
            "parameters": sum(header.parameters for header in headers),
            "context_tokens": headers[0].context_trained,
        } if headers else None  # fmt: skip
        print_json({**_summary(plan), "model": model, "fit": _fit_document(judged), "there_is": everything})
        return
    print(facts([("would fetch", plan.parts[0].path), *_facts(repository, plan, headers, judged)[2:]]))
    print()
    rows = [
        ("*" if file in plan.files else "", file.quant or "-", size_text(file.size_bytes), file.kind, file.path)
        for file in repository.files
    ]
    print(table(("", "QUANT", "SIZE", "KIND", "FILE"), rows, right=(2,), whole=(0, 1, 2, 3)))
