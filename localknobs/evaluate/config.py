"""What is to be measured: one frozen record, and the models of it with the settings each is loaded with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localknobs.engine.settings import LoadSettings

SUITES = {
    "ppl": "perplexity of a text",
    "kld": "KL divergence from the parent model, over the same text",
    "tasks": "questions with right answers, yours or shipped ones",
    "forgetting": "general text and tasks against the parent model",
    "needle": "a number found in a long text, by its depth and the text's length",
    "position": "perplexity by place in the context",
    "speed": "tokens a second on this machine",
}
"""Every suite and what it measures, in the order of a report."""
SHIPPED = {
    "arithmetic": "sums that a person does in the head",
    "format": "answers of a form that the question sets",
    "extraction": "facts taken out of a short text",
    "recall": "a fact said once in a page of other talk",
    "choices": "the continuation that makes sense, by log-probability",
    "built-in": "what the built-in model was taught, in wordings it never saw",
}
"""The suites of tasks that come with the program."""
AGAINST_PARENT = ("kld", "forgetting")
"""Suites that make no sense without a parent."""
TIME_SHARES = {
    "text": 3.0, "tasks": 3.0, "general text": 1.0, "general tasks": 1.0, "needle": 2.0, "position": 2.0, "speed": 1.0,
}  # fmt: skip
"""How the time of `minutes` is shared out among the stages that are asked for."""
STAGES_OF = {
    "ppl": ("text",), "kld": ("text",), "tasks": ("tasks",), "forgetting": ("general text", "general tasks"),
    "needle": ("needle",), "position": ("position",), "speed": ("speed",),
}  # fmt: skip
"""The stages that each suite takes its numbers from; two suites may share one."""
DEFAULT_CHUNK = 512
LEAST_CHUNK, MOST_CHUNK = 16, 65_536
LEAST_CHUNKS = 2
"""llama-perplexity wants two chunks of text."""
Mode = Literal["auto", "exact", "bounded"]
NeedleMode = Literal["logprob", "generate"]
NEEDLE_MODES = {
    "logprob": "each digit is the likeliest after the right ones before it; both answers come from one reading",
    "generate": "the model writes its answer, and the number is in it",
}
"""How it is told whether a needle was found."""
NEEDLE_ANSWER = 48
"""Most tokens of a written answer; they come on top of the length that is asked for."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A model with the settings it is measured with.

    Args:
        label: Its name in the report.
        settings: Which file, and how it is loaded; the context is chosen by what is measured.
        flags: The settings that differ from the run's, as they are typed.
    """

    label: str
    settings: LoadSettings
    flags: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What to measure.

    Args:
        models: What is measured.
        base: The parent they are compared with.
        suites: Names out of `SUITES`.
        text: A UTF-8 text; None for the one that is shipped.
        chunk_tokens: Tokens of a chunk, which a model reads without what came before.
        chunks: Most chunks; 0 for all.
        mode: How KL divergence is measured: with both models open, or against the parent's kept log-probabilities;
            `auto` takes the second where memory does not suffice for the first.
        tasks: Names of shipped suites, or JSONL files; empty for the shipped ones.
        needle_lengths: Tokens of the prompts; empty for an eighth, a quarter, a half and nearly all of the context.
        needle_depths: How many depths, from the beginning to the end.
        needles: Numbers a cell.
        needle_mode: How it is told whether a needle was found, see `NEEDLE_MODES`.
        needle_others: Other keys in the same text, which must not be taken for the one that is asked for.
        position_tokens: Length of the chunks of the suite `position`; 0 for the context, at most 4,096.
        minutes: Time that measuring may take; 0 for as long as it takes.
        seed: Of every choice.
        restart: Measure anew what was measured before.
        threads: 0 for all physical cores.
        plan_memory: Let llama.cpp lay the memory out (a second or two); else it is computed from the header.
        command: The command line that asks for this, for the report.
    """

    models: tuple[Variant, ...]
    base: Variant | None = None
    suites: tuple[str, ...] = ("ppl",)
    text: Path | None = None
    chunk_tokens: int = DEFAULT_CHUNK
    chunks: int = 0
    mode: Mode = "auto"
    tasks: tuple[str, ...] = ()
    needle_lengths: tuple[int, ...] = ()
    needle_depths: int = 5
    needles: int = 3
    needle_others: int = 0
    needle_mode: NeedleMode = "logprob"
    position_tokens: int = 0
    minutes: float = 0.0
    seed: int = 1
    restart: bool = False
    threads: int = 0
    plan_memory: bool = True
    command: str = ""

    @property
    def needle_answer(self) -> int:
        """Tokens that may come on top of a needle's length: those of a written answer."""
        return NEEDLE_ANSWER if self.needle_mode == "generate" else 0
