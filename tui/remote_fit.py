"""Which files of a repository on the hub fit this machine, from one header that is read by ranges."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from localknobs.engine import LoadSettings
from localknobs.fit.advice import VERDICT_WORDS, Adviser, advise, usual_context
from localknobs.fit.choices import repository_choices
from localknobs.fit.machine import FitMachine, this_machine
from localknobs.fit.planning import Planning
from localknobs.hub.spec import Spec

if TYPE_CHECKING:
    from localknobs.hub.repository import Repository


def badges(repository: Repository) -> tuple[dict[str, str], str]:
    """Return a verdict in a word for each model file, by its quantization or else its path, and one recommendation.

    Raises:
        LocalknobsError: the header cannot be read.
    """
    if not any(file.kind == "model" for file in repository.files):
        return {}, "A checkpoint: once fetched, the Forge makes a file of it that fits."
    machine = _machine()
    with Planning() as planning:
        choices = repository_choices(repository, Spec(repository.name), machine, planning)
        header = choices.reference.headers[0]
        context = usual_context(header)
        rows = Adviser(choices.reference, LoadSettings(model=header.path, n_ctx=context)).rows(choices.candidates)
        choices.close()
    advice = advise(rows, machine, context)
    text = f"{advice.row.candidate.name}: {advice.reason}" if advice.row else advice.reason
    return {row.candidate.name: VERDICT_WORDS[row.verdict] for row in rows}, f"{text} Enter fetches the marked file."


_MACHINE_S = 60
"""Seconds for which what is known of the machine counts: asking llama.cpp for its devices takes a process."""
_known: tuple[float, FitMachine] | None = None


def _machine() -> FitMachine:
    """Return this machine, asked for at most once a minute, since what is free of its memory changes."""
    global _known
    if _known is None or monotonic() - _known[0] > _MACHINE_S:
        _known = monotonic(), this_machine()
    return _known[1]
