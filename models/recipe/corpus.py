"""Read the topics and make conversations from them: the text the built-in model learns from.

A conversation is a list of messages; every one is made from `random.Random(seed)`, so that the
same seed gives the same corpus. What a topic says is written by hand in `models/corpus`.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import passkeys
from stories import HEROES, story, story_turn
from wording import varied

CORPUS = Path(__file__).resolve().parent.parent / "corpus"

ALIAS_FRAMES = (
    "what is {}", "what's {}", "{}?", "{}", "explain {}", "tell me about {}", "what does {} mean", "define {}", "what is meant by {}", "how does {} work",
    "what do you know about {}", "I want to know about {}", "describe {}", "can you explain {}", "can you tell me about {}", "meaning of {}", "{} meaning",
    "{}, what is it", "never heard of {}", "please explain {} to me", "give me a short description of {}", "what exactly is {}", "{} in simple words",
    "I do not understand {}", "what should I know about {}", "could you tell me what {} is", "do you know {}", "do you know what {} is", "I keep hearing about {}",
    "what is {} about", "and {}?", "what about {}", "now explain {}", "what is the idea of {}", "teach me {}", "I have never used {}", "what can you say about {}",
    "I read about {} and did not get it", "so what is {} then", "what in the world is {}", "how would you explain {}", "help me understand {}",
    "what is the purpose of {}", "what is {} good for", "what is {} for", "why {}", "a question about {}", "I am confused by {}", "what do people mean by {}",
    "what role does {} play", "what is {}'s job", "explain to me {}", "tell me what {} is", "is there something called {}", "somebody mentioned {}, what is that",
)
INTENT_FRAMES = (
    "{}", "tell me {}", "explain {}", "I want to know {}", "do you know {}", "please explain {}", "can you tell me {}", "could you describe {}", "I do not understand {}",
    "help me understand {}", "I wonder {}", "I'd like to learn {}", "would you say {}", "teach me {}", "a word on {}", "say {}", "let me know {}", "can you say {}",
)
ABOUT_FRAMES = (
    "{}", "tell me about {}", "explain {}", "I want to know about {}", "do you know about {}", "a question about {}", "what about {}", "what can you say about {}",
    "help me with {}", "I need help with {}", "I'd like to learn about {}", "how about {}", "is there something on {}", "could you describe {}",
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are the built-in model of localknobs.", "You are a small and friendly model.", "Answer the questions of the user.",
    "Answer in whole sentences.", "You explain the knobs of language models.", "You are a helpful, honest assistant. Say so when you do not know something.",
    "Be polite and brief.", "You help people to use localknobs.", "You are an expert on llama.cpp.",
)
GROUPS = {
    "quantization": "quant", "the context": "context", "fine-tuning": "tune", "pruning": "prune", "sampling": "sampling", "temperature": "temperature",
    "the penalties": "penalty", "presets": "preset", "the levers": "levers", "loading a model": "load", "speculative decoding": "speculative", "this program": "program",
}
ALL_FRAMES = (
    "tell me everything about {}", "write a long text about {}", "list all you know about {}", "give me a list of facts about {}", "a long answer about {} please",
    "tell me a lot about {}", "write everything you know about {}", "give me an overview of {} with a list", "summarize {} in a list", "full lesson on {} please",
)


@dataclass(frozen=True, slots=True)
class Topic:
    """One fact, its answers and the ways to ask for it; `facts` are regular expressions a right answer matches."""

    id: str
    intent: str
    facts: tuple[str, ...]
    answers: tuple[str, ...]
    questions: tuple[str, ...]
    aliases: tuple[str, ...]
    development: tuple[str, ...]


def normalized(question: str) -> str:
    """Return the question with case and punctuation gone, for comparing wordings."""
    return re.sub(r"\W+", " ", question.lower()).strip()


def read_topics() -> list[Topic]:
    """Return every topic; one wording of each (by hash) is kept away from training as `development`."""
    topics = []
    for file in sorted((CORPUS / "topics").glob("*.toml")):
        for entry in tomllib.loads(file.read_text(encoding="utf-8"))["topic"]:
            asked = sorted(entry["questions"], key=lambda text: hashlib.sha256(text.encode()).hexdigest())
            kept = 1 if len(asked) >= 8 else 0
            topics.append(
                Topic(
                    entry["id"], entry["intent"], tuple(entry["facts"]), tuple(entry["answers"]), tuple(asked[kept:]),
                    tuple(entry.get("aliases", ())), tuple(asked[:kept]),
                )
            )
    return topics


class Conversations:
    """Makes conversations from the topics, the unknown questions, the stories and the pass keys.

    Args:
        seed: The same seed makes the same conversations.
        all_wordings: Ask the kept development wordings too: for the last stage, when nothing is chosen by them any more.
    """

    def __init__(self, seed: int, *, all_wordings: bool = False) -> None:
        self.random = random.Random(seed)
        self.all_wordings = all_wordings
        self.topics = read_topics()
        self.unknown = tomllib.loads((CORPUS / "unknown.toml").read_text(encoding="utf-8"))
        self.held_out = {normalized(question) for question in held_out_questions()}
        # Topics that have few wordings of their own are asked for as often as the others.
        self.by_group = {name: [topic for topic in self.topics if topic.id.startswith(prefix + ".")] for name, prefix in GROUPS.items()}

    def _question(self, topic: Topic) -> str:
        rng = self.random
        while True:
            drawn = rng.random()
            if topic.aliases and drawn < 0.35:
                text = rng.choice(ALIAS_FRAMES).format(rng.choice(topic.aliases))
            elif not topic.id.startswith("chat.") and drawn < 0.5:
                direct = topic.intent.split()[0] in ("what", "how", "why", "when", "where", "which", "who", "whether")
                text = rng.choice(INTENT_FRAMES if direct else ABOUT_FRAMES).format(topic.intent)
            else:
                text = rng.choice(topic.questions + topic.development if self.all_wordings else topic.questions)
            text = varied(text, rng)
            if normalized(text) not in self.held_out:
                return text

    def topic_turn(self) -> tuple[str, str]:
        """Return a question about a topic and its answer."""
        topic = self.random.choice(self.topics)
        return self._question(topic), self.random.choice(topic.answers)

    def unknown_turn(self) -> tuple[str, str]:
        """Return a question that the model is not taught, and the answer that says so."""
        rng = self.random
        while True:
            if rng.random() < 0.4:
                text = rng.choice(self.unknown["questions"])
            else:
                text = re.sub(r"\{(\w+)\}", lambda slot: rng.choice(self.unknown["slots"][slot[1]]), rng.choice(self.unknown["frames"]))
            text = varied(text, rng)
            if normalized(text) not in self.held_out:
                return text, rng.choice(self.unknown["answers"])

    def list_turn(self) -> tuple[str, str]:
        """Return a wish for everything about a group of topics, and a long Markdown answer."""
        rng = self.random
        name = rng.choice(list(self.by_group))
        topics = rng.sample(self.by_group[name], min(len(self.by_group[name]), rng.randint(4, 12)))
        lines = "\n".join(f"- **{topic.intent[:1].upper() + topic.intent[1:]}**: {rng.choice(topic.answers)}" for topic in topics)
        return varied(rng.choice(ALL_FRAMES).format(name), rng), f"Here is what I know about {name}:\n\n{lines}"

    def _turn(self) -> tuple[str, str]:
        drawn = self.random.random()
        if drawn < 0.18:
            return self.unknown_turn()
        if drawn < 0.25:
            request, text = story_turn(self.random)
            return varied(request, self.random), text
        if drawn < 0.265:
            return self.list_turn()
        if drawn < 0.28:
            return varied(self.random.choice(passkeys.ASK), self.random), passkeys.NONE
        return self.topic_turn()

    def _pass_key_turns(self) -> list[tuple[str, str]]:
        rng = self.random
        key = passkeys.key_of(rng)
        ask = varied(rng.choice(passkeys.ASK), rng)
        drawn = rng.random()
        if drawn < 0.4:
            text = passkeys.needle_text(key, rng.choice((2, 5, 10, 20, 35)), rng)
            return [(f"{text}{rng.choice((' ', chr(10), chr(10) * 2))}{ask}", passkeys.ANSWER.format(key=key))]
        between = [turn for turn in (self._turn() for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 6)))) if turn[1] != passkeys.NONE]
        give = rng.choice(passkeys.GIVE).format(key=key)
        return [(give, rng.choice(passkeys.GIVEN).format(key=key)), *between, (ask, passkeys.ANSWER.format(key=key))]

    def _drill_turns(self) -> list[tuple[str, str]]:
        """Return several keys given and asked for in a row: dense practice in copying, which one key a conversation is too little for."""
        rng, turns = self.random, []
        for _ in range(rng.randint(2, 6)):
            key = passkeys.key_of(rng)
            turns.append((rng.choice(passkeys.GIVE).format(key=key), rng.choice(passkeys.GIVEN).format(key=key)))
            if rng.random() < 0.7:
                turns.append((rng.choice(passkeys.ASK), passkeys.ANSWER.format(key=key)))
        return turns

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        """Yield conversations without end.

        One message with the role `text` is plain text without a template; with the role `echo`, plain text that is
        repeated, of which only the repetitions are learned.
        """
        rng = self.random
        while True:
            drawn = rng.random()
            if drawn < 0.02:
                yield [{"role": "text", "content": story(rng.choice(HEROES), rng)}]
                continue
            if drawn < 0.07:
                yield [{"role": "echo", "content": passkeys.echo_text(rng)}]
                continue
            if drawn < 0.12:
                turns = self._drill_turns()
            elif drawn < 0.22:
                turns = self._pass_key_turns()
            else:
                turns = [self._turn() for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 4, 8)))]
            messages = [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}] if rng.random() < 0.2 else []
            for asked, answered in turns:
                messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
            yield messages


def held_out_questions() -> list[str]:
    """Return the wordings of `held_out.toml`; no corpus may contain one of them."""
    file = CORPUS / "held_out.toml"
    if not file.exists():
        return []
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return [*(question for questions in content["topics"].values() for question in questions), *content["unknown"]]
