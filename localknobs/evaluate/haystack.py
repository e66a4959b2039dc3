"""The worker's needles: a number said once in a text of everyday sentences, at a depth, and asked for at the end.

The answer is scored: every digit's log-probability, with the right ones before it. A model that would write the number
at temperature 0 is one for which each digit is the likeliest; both come from one reading. In the mode `generate` the
answer is written, and the number is looked for in it: a model that says it in other words has found it too.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from localknobs.engine.events import Message
from localknobs.engine.templates import ChatTemplate
from localknobs.errors import BadValue
from localknobs.evaluate.answering import choice_scores, template_of, written_answer
from localknobs.evaluate.config import NEEDLE_ANSWER
from localknobs.evaluate.models import OpenModel

_WHO = (
    "The baker", "A neighbour", "The old ferryman", "Her cousin", "The teacher", "A boy with a kite", "The postman",
    "The woman next door", "A tired traveller", "The gardener", "My uncle", "The clerk", "A girl in a yellow coat",
    "The watchmaker", "Somebody", "The night nurse", "A fisherman", "The librarian", "The new tenant",
    "A street musician",
)  # fmt: skip
_DOES = (
    "carried a basket of pears", "waited for the bus", "painted the fence green", "swept the leaves together",
    "looked for a lost glove", "sat down to read", "bought bread and a newspaper", "watered the tomatoes",
    "told a long story", "walked slowly home", "fed the ducks", "hung the washing out", "mended a bicycle tyre",
    "opened all the windows", "drank a glass of cold milk", "wrote a letter to a friend", "counted the boats",
    "lit the stove", "played an old tune", "folded the blankets",
)  # fmt: skip
_WHERE = (
    "by the river", "in front of the church", "under the big chestnut tree", "near the station", "on the upper floor",
    "behind the mill", "at the corner of the square", "in the empty schoolyard", "beside the well", "on the beach",
    "at the end of the lane", "in the market hall", "outside the bakery", "on the bridge", "in the back garden",
)  # fmt: skip
_WHEN = (
    "before breakfast", "when the rain had stopped", "late in the afternoon", "as on every Sunday",
    "while it was snowing", "after a long day", "until it grew dark", "early in the morning",
    "during the holidays", "without a word",
)  # fmt: skip
_THINGS = ("red", "blue", "green", "yellow", "black", "white", "silver", "brown")
SAYS, ASKS, ANSWERS = "The pass key is {key}.", "What is the pass key in this text?", "The pass key is {key}."
SAYS_ONE = "The {thing} pass key is {key}."
ASKS_ONE, ANSWERS_ONE = "What is the {thing} pass key in this text?", "The {thing} pass key is {key}."


def filler_sentence(rng: random.Random) -> str:
    """Return an everyday sentence without a number in it; there are 60,000 of them."""
    return f"{rng.choice(_WHO)} {rng.choice(_DOES)} {rng.choice(_WHERE)} {rng.choice(_WHEN)}."


def find_needles(worker: Any, order: dict[str, Any]) -> None:
    """Score needles with all open models, cell by cell; say one record a cell and model."""
    for cell in order["cells"]:
        if worker.enough.is_set():
            break
        for one in worker.models:
            template = template_of(worker, one)
            found = _written(one, template, cell) if cell["mode"] == "generate" else _scored(one, template, cell)
            worker.say({"record": {"model": one.number, "cell": cell["cell"], **found}})


def _scored(one: OpenModel, template: ChatTemplate, cell: dict[str, Any]) -> dict[str, Any]:
    prompt, whole = hide(one, template, cell).tokens(template)
    ((total, greedy),) = choice_scores(one, prompt, [whole])
    return {"log_probability": total, "found": greedy}


def _written(one: OpenModel, template: ChatTemplate, cell: dict[str, Any]) -> dict[str, Any]:
    hidden = hide(one, template, cell)
    asked = {"raw": False, "messages": [Message(role="user", content=hidden.said)], "max_tokens": NEEDLE_ANSWER}
    text = written_answer(template, one, asked)
    return {"found": is_said(hidden.key, text), "text": text}


def is_said(key: str, text: str) -> bool:
    """Whether a number stands in a text, on its own and not within a longer one."""
    return re.search(rf"(?<!\d){key}(?!\d)", text) is not None


@dataclass(frozen=True, slots=True)
class Hidden:
    """A needle in its text.

    Args:
        said: The text, and the question after it.
        answer: The right answer, which ends in the number.
        key: The number.
    """

    said: str
    answer: str
    key: str

    def tokens(self, template: ChatTemplate) -> tuple[list[int], list[int]]:
        """Return the tokens of text, question and the beginning of the answer, and the same with the number."""
        said = Message(role="user", content=self.said)
        begun = Message(role="assistant", content=self.answer.removesuffix(self.key).rstrip())
        full = Message(role="assistant", content=self.answer)
        return (
            template.prompt([said, begun], continue_last=True).tokens,
            template.prompt([said, full], continue_last=True).tokens,
        )


def hide(one: OpenModel, template: ChatTemplate, cell: dict[str, Any]) -> Hidden:
    """Return a needle in a text of everyday sentences.

    Args:
        one: Whose tokens are counted.
        template: Its chat template.
        cell: `length` in tokens of the whole, `depth` from 0 to 1, `seed`, and how many other keys are `others`.

    Raises:
        BadValue: the length is too short for the question alone.
    """
    rng = random.Random(cell["seed"])
    things = rng.sample(_THINGS, 1 + cell["others"])
    keys = [str(rng.randrange(10_000, 100_000)) for _ in things]
    names = {"thing": things[0], "key": keys[0]}
    several = bool(cell["others"])
    asks = (ASKS_ONE if several else ASKS).format(**names)
    answer = (ANSWERS_ONE if several else ANSWERS).format(**names).removesuffix(".")
    needle = (SAYS_ONE if several else SAYS).format(**names)
    others = [SAYS_ONE.format(thing=thing, key=key) for thing, key in zip(things[1:], keys[1:], strict=True)]

    def hidden(sentences: list[str]) -> Hidden:
        return Hidden(f"{' '.join(sentences)}\n\n{asks}", answer, keys[0])

    bare = len(hidden([needle, *others]).tokens(template)[1])
    if bare > cell["length"]:
        raise BadValue(
            f"A needle and its question take {bare} tokens, more than the length {cell['length']}",
            "Name longer ones with --needle-lengths.",
        )
    sentences: list[str] = []
    left = cell["length"] - bare
    while True:
        sentence = filler_sentence(rng)
        left -= len(one.model.tokenize(f" {sentence}", special=False))
        if left < 0:
            break
        sentences.append(sentence)
    places = [rng.random() for _ in others]
    for other, place in sorted(zip(others, places, strict=True), key=lambda pair: -pair[1]):
        sentences.insert(round(place * len(sentences)), other)
    sentences.insert(round(cell["depth"] * len(sentences)), needle)
    return hidden(sentences)
