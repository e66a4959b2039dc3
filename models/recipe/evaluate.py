"""Measure a built-in model on wordings it never saw: `python models/recipe/evaluate.py MODEL.gguf [--out FILE.json]`.

Questions come from `models/corpus/held_out.toml`, pass keys and stories from seeds that no training
run uses. The answers are written by the same engine that people chat with, at temperature 0.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

import passkeys
from corpus import CORPUS, read_topics
from localknobs.engine import LoadSettings, Message, TextArrived, load
from localknobs.engine.client import Engine
from localknobs.presets import preset

LEVER_OF = {
    "finetune": "fine-tune", "tune": "fine-tune", "quantize": "quantize", "quant": "quantize", "kv": "context", "context": "context", "load": "context",
    "prune": "prune", "temperature": "decode", "sampling": "decode", "penalty": "decode", "decode": "decode", "preset": "decode", "problem": "decode",
    "basics": "decode", "speculative": "decode", "speed": "decode", "compare": "decode", "levers": "the levers", "chat": "small talk", "program": "the program",
}  # fmt: skip
STORIES = (
    "tell me a very short story about an owl", "could you tell a story that is about a cloud", "a story about a musician, if you like", "story time! make it about a snail",
    "I would like to hear a tale of a train", "think up a story about a hedgehog", "tell a tiny story", "please think of a story about a lighthouse keeper",
    "can I have a bedtime tale about a star", "one short story of a farmer",
)  # fmt: skip
REPLAYS = 5
"""Turns of other talk between a pass key and the question for it, at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, what was answered, and whether that is right."""

    group: str
    topic: str
    question: str
    answer: str
    right: bool


def ask(engine: Engine, messages: list[Message]) -> str:
    """Return the greedy answer."""
    values = {**preset("deterministic").values, "n_predict": 160}
    return "".join(event.text for event in engine.stream(messages, values) if isinstance(event, TextArrived))


def user(text: str) -> list[Message]:
    """Return a conversation of one message."""
    return [Message(role="user", content=text)]


def topic_answers(engine: Engine) -> list[Answer]:
    """Ask every held-out wording of every topic; right when each fact's pattern is found."""
    held_out = tomllib.loads((CORPUS / "held_out.toml").read_text(encoding="utf-8"))
    facts = {topic.id: topic.facts for topic in read_topics()}
    found = []
    for topic, questions in held_out["topics"].items():
        for question in questions:
            answer = ask(engine, user(question))
            right = all(re.search(fact, answer, re.IGNORECASE) for fact in facts[topic])
            found.append(Answer(LEVER_OF[topic.split(".")[0]], topic, question, answer, right))
    for question in held_out["unknown"]:
        answer = ask(engine, user(question))
        found.append(Answer("says it does not know", "unknown", question, answer, bool(re.search(r"not know", answer))))
    return found


def pass_key_answers(engine: Engine, seed: int = 990_001) -> list[Answer]:
    """Give a key, in a text or some turns before, and ask for it."""
    rng = random.Random(seed)
    held_out = list(tomllib.loads((CORPUS / "held_out.toml").read_text(encoding="utf-8"))["topics"].values())
    found = []
    for place in range(40):
        key = passkeys.key_of(rng)
        if place % 2:
            text = f"{passkeys.needle_text(key, rng.choice((3, 12, 30)), rng)}\n\nWhat is the pass key in this text?"
            messages = user(text)
        else:
            messages = [
                *user(f"Please remember that my pass key is {key}."),
                Message(role="assistant", content=f"Noted. The pass key is {key}."),
            ]
            for _ in range(rng.randint(0, REPLAYS)):
                messages += user(rng.choice(held_out)[0])
                messages.append(Message(role="assistant", content=ask(engine, messages)))
            messages += user("Which pass key did I tell you?")
        answer = ask(engine, messages)
        found.append(Answer("repeats a pass key", "passkey", messages[-1]["content"], answer, key in answer))
    return found


def story_answers(engine: Engine) -> list[Answer]:
    """Ask for stories; right when there are three whole sentences or more and the wished-for hero is in it."""
    found = []
    for question in STORIES:
        answer = ask(engine, user(question))
        hero = re.search(r"\b(?:about|of) an? (\w+)", question)
        sentences = re.findall(r"[^.!?]+[.!?]", answer)
        right = (
            len(sentences) >= 3 and answer.rstrip().endswith((".", "!")) and (hero is None or hero[1] in answer.lower())
        )
        found.append(Answer("tells a very short story", "story", question, answer, right))
    return found


def main() -> None:
    """Print the table and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, help="write every question and answer here as JSON")
    options = parser.parse_args()
    with load(LoadSettings(model=options.model, threads=1)) as engine:
        answers = [*topic_answers(engine), *pass_key_answers(engine), *story_answers(engine)]
    groups: dict[str, list[bool]] = {}
    for answer in answers:
        groups.setdefault(answer.group, []).append(answer.right)
        if not answer.right:
            print(f"wrong  {answer.topic} | {answer.question[-80:]!r} | {answer.answer!r}")
    for group, right in groups.items():
        print(f"{group:<26} {sum(right):>3} of {len(right):>3}  {sum(right) / len(right):.1%}")
    print(
        f"{'all':<26} {sum(answer.right for answer in answers):>3} of {len(answers):>3}  {sum(answer.right for answer in answers) / len(answers):.1%}"
    )
    if options.out:
        options.out.write_text(
            json.dumps([asdict(answer) for answer in answers], indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
