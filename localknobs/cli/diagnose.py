"""`localknobs diagnose [SYMPTOM]`: which lever to try first, after a cheap probe on this model, here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from localknobs.cli.output import facts, heading, note, print_json, table, wrapped
from localknobs.cli.progress import run_job
from localknobs.cli.question import prompt_of
from localknobs.errors import BadValue, NotFound
from localknobs.flags import add_knob_flags, chosen
from localknobs.library import BUILT_IN, find_model
from localknobs.paths import user_path
from localknobs.presets import preset
from localknobs.terminal_text import printable

if TYPE_CHECKING:
    from localknobs.diagnose import Case, Finding, Symptom

ALL = "all"
"""Names every symptom."""
_WORDS = {"confirmed": "Confirmed", "rejected": "Not confirmed", "open": "Open"}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    add = parser.add_argument
    add(
        "symptom",
        metavar="SYMPTOM",
        nargs="?",
        help="what is wrong, such as slow or loops; all for every one; without it, the table",
    )
    add("model", metavar="MODEL", nargs="?", default=BUILT_IN, help="the model it shows with (default: built-in)")
    add("-p", "--prompt", help="a prompt with which it shows; text on standard input is added to it")
    add("--preset", metavar="NAME", help="sampling preset with which it shows")
    add("--tasks", metavar="FILE", type=Path, help="your own tasks (JSONL), for the symptom niche")
    add("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(system="", raw=False)
    add_knob_flags(parser, "sampling")
    add_knob_flags(parser, "loading")


def run(options: Namespace) -> int:
    """Show the table, or probe one symptom."""
    from localknobs.diagnose import SYMPTOMS, diagnose, find_symptom, finding_as_mapping

    if options.symptom is None:
        return _show_table(SYMPTOMS, options.json)
    if options.symptom == ALL:
        return _probe_all(options)
    symptom = find_symptom(options.symptom)
    finding = run_job(diagnose(symptom, _case(options)), stopped="")
    if options.json:
        print_json(finding_as_mapping(symptom, finding, options.model))
        return 0
    _print(symptom, finding)
    return 0


def _probe_all(options: Namespace) -> int:
    """Probe every symptom; one that is stopped prints what was found until then."""
    from localknobs.diagnose import diagnose_all, finding_as_mapping

    found: list[tuple[Symptom, Finding]] = []
    try:
        run_job(diagnose_all(_case(options), found), stopped="What was found until then is printed.")
    finally:
        if options.json:
            print_json(
                {"findings": [finding_as_mapping(symptom, finding, options.model) for symptom, finding in found]}
            )
        else:
            for at, (symptom, finding) in enumerate(found):
                print("\n" * bool(at), end="")
                _print(symptom, finding)
    return 0


def _case(options: Namespace) -> Case:
    from localknobs.diagnose import Case
    from localknobs.knobs import defaults

    try:
        model = find_model(options.model)
    except NotFound as error:
        raise NotFound(error.message, error.hint + " A prompt goes after -p.") from None
    if options.tasks and not user_path(options.tasks).is_file():
        raise NotFound(f"There is no file {options.tasks}", "docs/tasks.md says what is in one.")
    named = preset(options.preset).values if options.preset else {}
    return Case(
        model=model,
        name=options.model,
        prompt=_prompt(options),
        values={**defaults("sampling"), **named, **chosen(options, "sampling")},
        loading=chosen(options, "loading"),
        tasks=user_path(options.tasks) if options.tasks else None,
    )


def _prompt(options: Namespace) -> str:
    """Return the prompt; none is no fault here, also without a terminal."""
    try:
        return prompt_of(options) or ""
    except BadValue:
        if options.prompt is not None:
            raise
        return ""


def _show_table(symptoms: tuple[Symptom, ...], as_json: bool) -> int:
    if as_json:
        print_json({"symptoms": [_row(one) for one in symptoms]})
        return 0
    print(table(("SYMPTOM", "WHAT YOU SEE", "LEVER"), [(one.key, one.seen, one.lever or "none") for one in symptoms]))
    print()
    for one in symptoms:
        print(wrapped(f"{one.key}: looks at {one.check}. What helps: {one.other}.", "  ", ""))
    note("To probe one on a model: localknobs diagnose slow MODEL")
    return 0


def _row(symptom: Symptom) -> dict[str, str]:
    return {name: getattr(symptom, name) for name in ("key", "seen", "check", "lever", "other")}


def _print(symptom: Symptom, finding: Finding) -> None:
    print(heading(f"{_WORDS[finding.verdict]}: {symptom.seen}"))
    print(wrapped(printable(finding.text), "", ""))
    if finding.numbers:
        print()
        print(facts([(f"  {name}", f"{value:,.6g}") for name, value in finding.numbers.items()]))
    if finding.remedies:
        print("\n" + heading(f"What to try (lever: {symptom.lever or 'none'})"))
        for remedy in finding.remedies:
            print(wrapped(remedy.text, "    ", "  - "))
            if remedy.command:
                print(f"      {remedy.command}")
    if finding.command:
        note(f"To measure it at length: {finding.command}")
