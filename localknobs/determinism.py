"""Whether a model answers the same twice, where answers part, and what makes them: one thing is varied at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from localknobs.engine.client import Engine
from localknobs.engine.controls import Plan
from localknobs.engine.events import Message
from localknobs.engine.view import Candidate, SamplerView
from localknobs.hardware import logical_cores, physical_cores
from localknobs.jobs import Advanced, Job, Started
from localknobs.knobs import Value

SMALL_PIECE = 16
"""Tokens of the prompt that are read at once, where they are read in pieces."""
_COMPARED = 50
"""Scores of the first token that are compared: those of the likeliest."""


@dataclass(frozen=True, slots=True)
class DeterminismConfig:
    """What is asked, and how often.

    Args:
        question: The conversation, or a raw text.
        values: Complete sampling values: the present settings.
        runs: How often each is repeated, at least 2.
        tokens: Most tokens of an answer.
        threads: Of the runs that vary something else.
    """

    question: Sequence[Message] | str
    values: Mapping[str, Value]
    runs: int = 5
    tokens: int = 64
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two answers part, as seen by the second of them.

    Args:
        token: Index of the first token that differs, from 0.
        first, second: What came there, as text; "(the end)" where an answer was over.
        before: The model's probabilities of the two, in the run that parted; -1 when not known.
        gap: Difference of their two scores (logits) there, in the same run; the first run had the first one ahead.
    """

    token: int
    first: str
    second: str
    before: tuple[float, float]
    gap: float


@dataclass(frozen=True, slots=True)
class Trial:
    """Several answers that should be the same.

    Args:
        name: What was tried: `temperature 0`, `settings`, `seed`, `other seed`, `threads`, `batch`, `cache`.
        what: The same as a phrase.
        runs: How many answers were compared with the first one.
        same: How many of them were the same.
        tokens: Of the first answer.
        parting: The earliest place where one parted; None when none did.
        difference: The largest difference of a score of the first token, over the likeliest tokens.
    """

    name: str
    what: str
    runs: int
    same: int
    tokens: int
    parting: Parting | None
    difference: float

    @property
    def repeats(self) -> bool:
        """Whether all answers were the same."""
        return self.parting is None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it.

    Args:
        repeats: Whether the present settings give the same answer every time, not only by luck.
        causes: What makes answers differ: `hardware`, `temperature`, `seed`, `threads`, `batch`, `cache`.
        lines: The same in words, the verdict first.
        trials: In the order in which they were made.
    """

    repeats: bool
    causes: tuple[str, ...]
    lines: tuple[str, ...]
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True, slots=True)
class _Run:
    tokens: tuple[int, ...]
    first: SamplerView


class _Runs:
    """Makes answers and compares them."""

    def __init__(self, engine: Engine, config: DeterminismConfig) -> None:
        self._engine, self._config = engine, config
        self._plain = Plan(fresh=True, piece=engine.settings.n_batch)

    def write(self, values: Mapping[str, Value], plan: Plan | None = None) -> _Run:
        limited = {**self._config.values, **values, "n_predict": self._config.tokens}
        for _ in self._engine.stream(self._config.question, limited, plan=plan or self._plain):
            pass
        return _Run(self._engine.written_tokens(), self._engine.look(at=0, top=_COMPARED))

    def compare(self, first: _Run, other: _Run) -> tuple[Parting | None, float]:
        """Compare the run that was made last with an earlier one."""
        scores = {one.token: one.score for one in first.first.candidates}
        shared = [abs(scores[one.token] - one.score) for one in other.first.candidates if one.token in scores]
        difference = max(shared, default=0.0)
        if first.tokens == other.tokens:
            return None, difference
        pairs = enumerate(zip(first.tokens, other.tokens, strict=False))
        shorter = min(len(first.tokens), len(other.tokens))
        at = next((at for at, (a, b) in pairs if a != b), shorter)
        return self._parting(at, first.tokens, other.tokens), difference

    def _parting(self, at: int, first: tuple[int, ...], second: tuple[int, ...]) -> Parting:
        tokens = [run[at] if at < len(run) else None for run in (first, second)]
        view = self._engine.look(at=at, top=_COMPARED) if at < len(second) else None
        seen: list[Candidate | None] = [
            next((one for one in view.candidates if one.token == token), None) if view else None for token in tokens
        ]
        texts = ["(the end)" if token is None or (one and one.ends) else one.text if one else f"token {token}"
                 for token, one in zip(tokens, seen, strict=True)]  # fmt: skip
        known = [one.before if one else -1.0 for one in seen]
        gap = abs(seen[0].score - seen[1].score) if seen[0] and seen[1] else float("nan")
        return Parting(at, texts[0], texts[1], (known[0], known[1]), gap)


def check_determinism(engine: Engine, config: DeterminismConfig) -> Job[Verdict]:
    """Answer again and again, and find what makes the answers differ.

    At temperature 0 nothing is drawn, so that only the numbers count: repetition alone, then the threads, then how
    the prompt is read. At the present settings: repetition, then with a fixed seed, then with another one.

    Args:
        engine: The loaded model; its threads are varied and set back.
        config: What is asked, and how often.
    """
    before = engine.settings.threads
    threads = config.threads or before or physical_cores()
    other_threads = [count for count in (1, 2) if count != threads and count <= logical_cores()]
    runs = _Runs(engine, config)
    cold: dict[str, Value] = {"temp": 0.0, "dynatemp_range": 0.0, "seed": 1}
    seed = int(str(config.values["seed"]))
    fixed: dict[str, Value] = {"seed": seed if seed >= 0 else 1}
    yield Started("comparing answers", 4 * config.runs + 2 + len(other_threads), "answers")
    trials: list[Trial] = []
    try:
        engine.use_settings({"threads": threads})
        base = runs.write(cold)
        yield Advanced(1)

        def tally(name: str, what: str, first: _Run, found: list[tuple[Parting | None, float]]) -> None:
            partings = [parting for parting, _ in found if parting]
            trials.append(
                Trial(
                    name, what, len(found), len(found) - len(partings), len(first.tokens),
                    min(partings, key=lambda parting: parting.token, default=None),
                    max((difference for _, difference in found), default=0.0),
                )
            )  # fmt: skip

        found = []
        for _ in range(config.runs - 1):
            found.append(runs.compare(base, runs.write(cold)))
            yield Advanced(1)
        tally("temperature 0", "temperature 0, nothing else changed", base, found)

        for name, what, values in (
            ("settings", "your settings, as they are", {}),
            ("seed", f"your settings, the seed fixed at {fixed['seed']}", fixed),
        ):
            first, found = runs.write(values), []
            yield Advanced(1)
            for _ in range(config.runs - 1):
                found.append(runs.compare(first, runs.write(values)))
                yield Advanced(1)
            tally(name, what, first, found)
        found = []
        for other in range(1, config.runs):
            found.append(runs.compare(first, runs.write({"seed": (int(str(fixed["seed"])) + other) % 2**32})))
            yield Advanced(1)
        tally("other seed", "your settings, other seeds", first, found)

        for count in other_threads:
            engine.use_settings({"threads": count})
            found = [runs.compare(base, runs.write(cold))]
            yield Advanced(1)
            tally("threads", f"temperature 0, threads {count} instead of {threads}", base, found)
        engine.use_settings({"threads": threads})

        pieces = Plan(fresh=True, piece=SMALL_PIECE)
        found = [runs.compare(base, runs.write(cold, pieces))]
        yield Advanced(1)
        tally("batch", f"temperature 0, the prompt read {SMALL_PIECE} tokens at a time", base, found)
        runs.write(cold)
        yield Advanced(1)
        found = [runs.compare(base, runs.write(cold, Plan(piece=engine.settings.n_batch)))]
        yield Advanced(1)
        tally("cache", "temperature 0, the prompt taken from the cache", base, found)
    finally:
        engine.use_settings({"threads": before})
    return replace(conclusion(trials, seed), trials=tuple(trials))


_NUMBERS = (
    ("threads", "The count of threads"),
    ("batch", "How much of the prompt is read at once"),
    ("cache", "Whether the prompt is read or taken from the cache"),
)
"""What changes the numbers, if anything does, and not the draw."""


def conclusion(trials: Sequence[Trial], seed: int) -> Verdict:
    """Return what follows from the trials.

    Args:
        trials: What was tried.
        seed: Of the present settings; below 0 for a new one each time.
    """

    def tried(name: str) -> list[Trial]:
        return [trial for trial in trials if trial.name == name]

    def differs(name: str) -> bool:
        return any(not trial.repeats for trial in tried(name))

    causes, lines = [], []
    if differs("temperature 0") or differs("seed"):
        causes.append("hardware")
        lines.append(
            "With everything the same, the seed too, answers differ: the device adds its numbers in an order that "
            "changes. -ngl 0 computes on the processor, where that does not happen."
        )
    drawn = differs("other seed")
    if drawn:
        causes.append("temperature")
        lines.append("Tokens are drawn at random: another seed gives another answer, and temperature 0 always one.")
        if seed < 0:
            causes.append("seed")
            lines.append("The seed is new with every answer. A fixed one, --seed N, repeats it" + (
                "." if differs("seed") else ", as was tried here."))  # fmt: skip
    for name, what in _NUMBERS:
        found = tried(name)
        most = max((trial.difference for trial in found), default=0.0)
        if differs(name) and "hardware" not in causes:
            causes.append(name)
            lines.append(f"{what} changes the answer, also at temperature 0.")
        elif most:
            lines.append(f"{what} changes the scores, by up to {most:.2g}, and these answers not.")
        elif found:
            lines.append(f"{what} changes nothing.")
    repeats = not differs("settings") and "hardware" not in causes and not (drawn and seed < 0)
    numbers = [what.lower() for name, what in _NUMBERS if name in causes]
    if not repeats:
        verdict = "The present settings do not give the same answer every time."
    elif numbers:
        verdict = "The present settings give the same answer only while nothing changes of this: " + "; ".join(numbers)
    else:
        verdict = "The present settings give the same answer every time."
    return Verdict(repeats, tuple(causes), (verdict.rstrip(".") + ".", *lines))
