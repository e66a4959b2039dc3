"""`localknobs ab`: two models or settings answer the same prompt, and what votes say of them."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from localknobs.cli.output import AnswerWriter, clear_progress, heading, note, print_json, show_progress, table
from localknobs.errors import BadValue

if TYPE_CHECKING:
    from localknobs.ab.side import Side
    from localknobs.ab.votes import Choice, Tally
    from localknobs.engine import Stats
    from localknobs.engine.client import Engine


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.description = (
        "Without a model: print what all votes say, those of the A/B screen too. With two: what their votes say. "
        "With a prompt: both answer it with the same seed, one after the other; in a terminal you are asked which is "
        'better. A model may carry flags of its own, in quotes: "built-in -ctk q8_0 --temp 0.2 --preset code".'
    )
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="*", help="none, or two: a file, a name from `localknobs ls`, or built-in")
    add("-p", "--prompt", metavar="TEXT", help="what both are asked")
    add("--seed", metavar="N", type=int, default=None, help="of both answers; drawn when not given")
    add(
        "--blind",
        action="store_true",
        help="print them in an order that is drawn, and whose they are at the end",
    )
    add("--json", action="store_true", help="print a JSON object, and ask for no vote")


def run(options: Namespace) -> int:
    """Print votes, or let both answer."""
    from localknobs.ab.side import read_side
    from localknobs.ab.votes import contestant_of, tallies, tally_of

    if not options.models:
        if options.prompt is not None:
            raise BadValue("A prompt needs two models", "Such as: localknobs ab one.gguf two.gguf -p Hello")
        return _print_tallies(tallies(), options.json)
    if len(options.models) != 2:
        raise BadValue(f"It takes two models, not {len(options.models)}", "Put flags of a model in quotes.")
    a, b = map(read_side, options.models)
    if options.prompt is None:
        return _print_tallies([tally_of(contestant_of(a), contestant_of(b))], options.json)
    if not options.prompt.strip():
        raise BadValue("The prompt is empty", 'Give one: -p "What is a token?"')
    if options.seed is not None and options.seed < 0:
        raise BadValue(f"--seed cannot be {options.seed}", "0 or more; leave it out to draw one.")
    return _answer(a, b, options)


def _print_tallies(found: list[Tally], as_json: bool) -> int:
    if as_json:
        print_json({"pairs": [tally.as_mapping() for tally in found]})
        return 0
    if not any(tally.votes for tally in found):
        print("There are no votes yet. They are cast in the interface (Alt+V), or with: localknobs ab A B -p PROMPT")
        return 0
    rows = []
    for tally in found:
        low, high = tally.interval
        better = f"{tally.share:.0%} ({low:.0%} to {high:.0%})" if tally.decided else "-"
        counts = (tally.a_won, tally.b_won, tally.ties, tally.both_bad)
        p = f"{tally.chance:.2g}" if tally.decided else "-"
        rows.append((tally.a.label, tally.b.label, *map(str, counts), better, p))
    print(table(("A", "B", "A WON", "B WON", "TIES", "BOTH BAD", "A BETTER (95%)", "P"), rows, right=(2, 3, 4, 5, 7)))
    return 0


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer.

    Args:
        name: A or B, and what the side is called.
        text: What it said.
        stats: Its counts and times.
        notes: What the user should know.
    """

    name: str
    text: str
    stats: Stats
    notes: tuple[str, ...]

    @property
    def numbers(self) -> str:
        """Its counts and times, on one line."""
        first = self.stats.time_to_first_token_s * 1000
        speed = f"{self.stats.tokens_per_s:,.0f} tokens/s"
        return f"{self.stats.generated_tokens:,} tokens at {speed}, first after {first:,.0f} ms"


def _answer(a: Side, b: Side, options: Namespace) -> int:
    from localknobs.ab.side import drawn_order, drawn_seed
    from localknobs.ab.votes import Vote, contestant_of, keep_vote, tally_of

    seed = drawn_seed() if options.seed is None else options.seed
    answers = []
    with _engines(a, b) as engine_of:
        for at, side in enumerate((a, b)):
            streams = not options.blind and not options.json
            if streams:
                print(heading(f"{'AB'[at]}: {side.label}"), flush=True)
            answer = _one(f"{'AB'[at]}: {side.label}", engine_of(at), side, options.prompt, seed, write=streams)
            answers.append(answer)
            if streams:
                note(answer.numbers)
                print()
    sides = contestant_of(a), contestant_of(b)
    if options.json:
        one, two = ({"label": side.label, **asdict(answer)} for side, answer in zip((a, b), answers, strict=True))
        tally = tally_of(*sides).as_mapping()
        print_json({"prompt": options.prompt, "seed": seed, "a": one, "b": two, "votes": tally})
        return 0
    order = drawn_order() if options.blind else (0, 1)
    if options.blind:
        for place, at in enumerate(order, start=1):
            print(heading(f"Answer {place}"))
            writer = AnswerWriter()
            writer.write(answers[at].text)
            writer.end()
            print()
    asks = sys.stdin.isatty() and sys.stderr.isatty() and all(answer.text for answer in answers)
    choice = _asked(order) if asks else None
    if options.blind:
        for place, at in enumerate(order, start=1):
            note(f"Answer {place} is {answers[at].name}. {answers[at].numbers}")
            for text in answers[at].notes:
                note(text)
    if choice:
        left: Literal["a", "b"] = "a" if order[0] == 0 else "b"
        texts = answers[0].text, answers[1].text
        tally_now = keep_vote(Vote(*sides, choice, options.prompt, seed, texts, options.blind, left))
        note(f"Votes: {tally_now.text()}")
    return 0


@contextmanager
def _engines(a: Side, b: Side) -> Iterator[Callable[[int], Engine]]:
    """Yield what returns a side's engine: one at a time, and the same for both where only live settings differ."""
    from localknobs.engine import load

    with ExitStack() as stack:
        engines: list[Engine] = []

        def engine_of(side: int) -> Engine:
            wanted = (a, b)[side]
            if engines and a.loads_like(b):
                engines[0].use_settings(wanted.live_settings)
                return engines[0]
            for engine in engines:
                engine.close()
            engines[:] = [load(wanted.load_settings, lambda done: show_progress(f"loading {done:4.0%}"))]
            clear_progress()
            stack.callback(engines[0].close)
            return engines[0]

        yield engine_of


def _one(name: str, engine: Engine, side: Side, prompt: str, seed: int, *, write: bool) -> _Answered:
    """Return one answer, written to standard output as it comes if wished."""
    from localknobs.engine import Message, Noted, TextArrived

    writer, pieces, notes = AnswerWriter(), [], []
    messages = [Message(role="user", content=prompt)]
    for event in engine.stream(messages, side.values(engine.info.recommended, seed)):
        if isinstance(event, TextArrived):
            pieces.append(event.text)
            if write:
                writer.write(event.text)
        elif isinstance(event, Noted):
            notes.append(event.text)
            if write:
                note(event.text)
    if write:
        writer.end()
    return _Answered(name, "".join(pieces), engine.stats, tuple(notes))


def _asked(order: tuple[int, int]) -> Choice | None:
    """Ask which answer is better until the reply can be understood; Enter, or the end of the input, is no vote."""
    while True:
        print("Which is better? 1, 2, t (tie), b (both bad), Enter for no vote: ", end="", file=sys.stderr, flush=True)
        reply = sys.stdin.readline().strip().lower()
        if not reply:
            return None
        if reply in ("1", "2"):
            return "a" if order[int(reply) - 1] == 0 else "b"
        if reply in ("t", "b"):
            return "tie" if reply == "t" else "both bad"
