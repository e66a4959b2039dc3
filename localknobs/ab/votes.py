"""Votes between two sides: a journal of all of them, and what they say, with its interval.

A side is known by the content of its model's file and its settings, so a file that was moved keeps its votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from localknobs.ab.side import Side
from localknobs.errors import NotFound
from localknobs.evaluate.statistics import mcnemar, wilson_interval
from localknobs.journal import Journal
from localknobs.ledger import add_measurement, fingerprint
from localknobs.paths import votes_file

Choice = Literal["a", "b", "tie", "both bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A side as votes remember it.

    Args:
        name: What it was called.
        flags: Its settings, in one order and spelling.
        fingerprint: The content of its model's file.
        path: Where that lay.
    """

    name: str
    flags: str
    fingerprint: str
    path: str

    @property
    def label(self) -> str:
        """Name and settings."""
        return f"{self.name} {self.flags}".strip()

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same one."""
        return self.fingerprint, self.flags


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote.

    Args:
        a, b: The two sides.
        choice: Whose answer was better.
        prompt: What both were asked.
        seed: Both answered with it.
        answers: What they said, the first side's first.
        blind: Whether the names were hidden.
        left: Which side was shown left, `a` or `b`.
        turn: Which prompt of the conversation it was, from 1; a later one was answered with those before in mind.
        when: ISO 8601 in UTC.
    """

    a: Contestant
    b: Contestant
    choice: Choice
    prompt: str = ""
    seed: int = 0
    answers: tuple[str, str] = ("", "")
    blind: bool = False
    left: Literal["a", "b"] = "a"
    turn: int = 1
    when: str = ""

    @property
    def turned(self) -> Vote:
        """The same vote with the sides exchanged."""
        other: Mapping[Choice, Choice] = {"a": "b", "b": "a"}
        return replace(
            self, a=self.b, b=self.a, choice=other.get(self.choice, self.choice), answers=self.answers[::-1],
            left="b" if self.left == "a" else "a",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tally:
    """What all votes between two sides say.

    Args:
        a, b: The two sides.
        a_won, b_won, ties, both_bad: How often.
        blind: How many of all votes were blind.
    """

    a: Contestant
    b: Contestant
    a_won: int = 0
    b_won: int = 0
    ties: int = 0
    both_bad: int = 0
    blind: int = 0

    @property
    def votes(self) -> int:
        """All of them."""
        return self.a_won + self.b_won + self.ties + self.both_bad

    @property
    def decided(self) -> int:
        """Votes for one of the two."""
        return self.a_won + self.b_won

    @property
    def share(self) -> float:
        """Share of the decided votes that the first won; not a number without any."""
        return self.a_won / self.decided if self.decided else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of that share (Wilson)."""
        return wilson_interval(self.a_won, self.decided)

    @property
    def chance(self) -> float:
        """The chance of so uneven a split if neither were better (exact sign test)."""
        return mcnemar(self.b_won, self.a_won)

    def text(self, a: str = "A", b: str = "B") -> str:
        """Return it on one line.

        Args:
            a: What the first side is called.
            b: What the second is called.
        """
        if not self.votes:
            return "no votes yet"
        rest = [f"{self.ties} ties" if self.ties != 1 else "1 tie"] if self.ties else []
        rest += [f"{self.both_bad} both bad"] if self.both_bad else []
        text = ", ".join([f"{a} {self.a_won}, {b} {self.b_won}", *rest])
        if self.decided:
            low, high = self.interval
            text += f"; {a} better in {self.share:.0%} (95% interval {low:.0%} to {high:.0%})"
        return text

    def as_mapping(self) -> dict[str, Any]:
        """Return it as plain data."""
        known = self.decided > 0
        return {
            **asdict(self), "votes": self.votes, "share": self.share if known else None,
            "interval": self.interval if known else None, "p": self.chance if known else None,
        }  # fmt: skip


def contestant_of(side: Side) -> Contestant:
    """Return a side as votes remember it; reads its file, or samples of a large one."""
    return Contestant(side.words.name, side.words.settled_flags, fingerprint(side.path), str(side.path.absolute()))


def _journal() -> Journal:
    return Journal(votes_file(), "list of votes")


def read_votes() -> list[Vote]:
    """Return all votes, the oldest first; what is no vote is left out.

    Raises:
        BadFile: the file cannot be read.
    """
    try:
        records = _journal().read()
    except NotFound:
        return []
    return [vote for vote in map(_vote_of, records) if vote]


def _vote_of(record: Mapping[str, Any]) -> Vote | None:
    try:
        values = dict(record)
        values["a"], values["b"] = Contestant(**values["a"]), Contestant(**values["b"])
        values["answers"] = tuple(map(str, values["answers"]))
        vote = Vote(**values)
    except (KeyError, TypeError, ValueError):
        return None
    return vote if vote.choice in CHOICES and len(vote.answers) == 2 else None


def keep_vote(vote: Vote) -> Tally:
    """Write a vote, add it to the cards of both models where they have some, and return what all votes say.

    Raises:
        LocalknobsError: it cannot be written; or it was, and a card cannot be.
    """
    vote = replace(vote, when=datetime.now(UTC).isoformat(timespec="seconds"))
    journal = _journal()
    try:
        journal.read()  # where its end is
    except NotFound:
        pass
    try:
        journal.append([asdict(vote)])
        journal.sync()
    finally:
        journal.close()
    tally = tally_of(vote.a, vote.b)
    for won, lost, one, other in (
        (tally.a_won, tally.b_won, tally.a, tally.b), (tally.b_won, tally.a_won, tally.b, tally.a),
    ):  # fmt: skip
        if Path(one.path).exists():
            add_measurement(Path(one.path), {
                "kind": "A/B votes",
                "settings": {"flags": one.flags, "against": other.label, "against_fingerprint": other.fingerprint},
                "won": won, "lost": lost, "ties": tally.ties, "both_bad": tally.both_bad,
            })  # fmt: skip
    return tally


def tally_of(a: Contestant, b: Contestant, votes: Iterable[Vote] | None = None) -> Tally:
    """Return what the votes between two sides say, whichever was named first when they were cast.

    Args:
        a: The first side.
        b: The second.
        votes: Votes to count; all that are kept when not given.
    """
    counted: Counter[str] = Counter()
    blind = 0
    for vote in read_votes() if votes is None else votes:
        if (vote.a.key, vote.b.key) != (a.key, b.key):
            vote = vote.turned
        if (vote.a.key, vote.b.key) == (a.key, b.key):
            counted[vote.choice] += 1
            blind += vote.blind
    return Tally(a, b, counted["a"], counted["b"], counted["tie"], counted["both bad"], blind)


def tallies(fingerprint_of: str = "") -> list[Tally]:
    """Return a tally of every pair there are votes of, the newest vote's first.

    Args:
        fingerprint_of: Only pairs with this model, which is then the first; empty for all.
    """
    votes = read_votes()
    pairs: dict[tuple[object, object], tuple[Contestant, Contestant]] = {}
    for vote in reversed(votes):
        if fingerprint_of and vote.a.fingerprint != fingerprint_of:
            vote = vote.turned
        if not fingerprint_of or vote.a.fingerprint == fingerprint_of:
            if (vote.b.key, vote.a.key) not in pairs:
                pairs.setdefault((vote.a.key, vote.b.key), (vote.a, vote.b))
    return [tally_of(a, b, votes) for a, b in pairs.values()]
