"""Write the example set `flags` of `localknobs finetune`: wishes in plain words, answered by the flags that grant them.

`python models/recipe/flags.py`: 1,200 training examples; 100 held-out tasks in sentences that no training example has; 60
questions of what the built-in model knows already, whose loss shows forgetting; and 1,600 other ones to rehearse, without
which it would answer everything with flags. The model knows the knobs but was never taught to write a command.
"""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

from corpus import Conversations

KNOBS = {
    "--temp": (("temperature", "temp", "a temperature of"), ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1", "1.1", "1.2", "1.3", "1.5")),
    "--top-p": (("top-p", "top p", "a top-p of"), ("0.5", "0.6", "0.7", "0.75", "0.8", "0.85", "0.9", "0.92", "0.95", "0.98")),
    "--top-k": (("top-k", "top k", "a top-k of"), ("1", "5", "10", "15", "20", "30", "40", "50", "64", "80", "100", "200")),
    "--min-p": (("min-p", "min p", "a min-p of"), ("0.01", "0.02", "0.05", "0.08", "0.1", "0.15", "0.2")),
    "--repeat-penalty": (("repeat penalty", "repetition penalty", "a repetition penalty of"), ("1.05", "1.1", "1.15", "1.2", "1.3")),
    "--seed": (("seed", "the seed", "random seed"), ("1", "7", "13", "42", "77", "123", "500", "1234", "2024", "9000")),
    "-n": (("answer length", "at most this many tokens:", "a length of"), ("16", "32", "50", "64", "100", "128", "200", "256", "300", "512")),
    "-c": (("context", "a context of", "context size"), ("256", "512", "1024", "2048", "4096", "8192", "16384")),
    "-t": (("threads", "thread count", "CPU threads:"), ("1", "2", "3", "4", "6", "8", "12", "16")),
}
TRAINED = (
    "Flags for {}", "Which flags set {}?", "Chat with {}", "Give me {}", "I want {}", "Set {}", "Start a chat with {}", "Command for {}",
    "please use {}", "how do I run it with {}", "Write the command: {}", "Make it {}", "open the chat using {}", "Turn this into flags: {}",
    "Run the model with {}", "I would like {}", "what do I type for {}", "use {} please",
)
HELD_OUT = (
    "Show me the flags for {}", "Can you start the chat with {}?", "I need {}", "Tell me the command for {}", "Put {} into a command", "what is the command to chat with {}",
    "Let me chat with {}, please", "Help me set {}",
)


def example(chance: random.Random, frames: tuple[str, ...]) -> tuple[str, str]:
    """Return a wish and its command; one to three knobs, in the order of the wish."""
    flags = chance.sample(sorted(KNOBS), chance.choices((1, 2, 3), (4, 4, 2))[0])
    values = [chance.choice(KNOBS[flag][1]) for flag in flags]
    wishes = [f"{chance.choice(KNOBS[flag][0])} {value}" for flag, value in zip(flags, values, strict=True)]
    wish = wishes[0] if len(wishes) == 1 else ", ".join(wishes[:-1]) + " and " + wishes[-1]
    return chance.choice(frames).format(wish), "localknobs chat " + " ".join(f"{flag} {value}" for flag, value in zip(flags, values, strict=True))


def known(count: int, seed: int, seen: set[str]) -> list[str]:
    """Return questions that the built-in model was taught, with their answers, as lines."""
    lines = []
    for messages in islice(Conversations(seed, all_wordings=True), 50_000):
        short = sum(len(message["content"]) for message in messages) < 300  # quick to learn
        if short and [message["role"] for message in messages] == ["user", "assistant"] and messages[0]["content"] not in seen:
            seen.add(messages[0]["content"])
            lines.append(json.dumps({"prompt": messages[0]["content"], "completion": messages[1]["content"]}) + "\n")
            if len(lines) == count:
                break
    return lines


def main() -> None:
    """Write the four files."""
    folder = Path(__file__).resolve().parents[2] / "localknobs" / "tune" / "data"
    chance, seen = random.Random(7), set()
    old, files = known(400, 11, seen), {}
    files["flags"] = wishes(800, TRAINED, "completion", chance, seen)
    chance.shuffle([*old, *files["flags"]])  # as it was when both were one file, so that what measures stays the same
    files["flags-held-out"] = wishes(100, HELD_OUT, "answer", chance, seen)
    chance.shuffle(files["flags-held-out"])
    files["flags-general"] = known(60, 12, seen)
    files["flags"] += wishes(400, TRAINED, "completion", random.Random(8), seen)
    measured = {bare(line) for line in files["flags-general"]}
    files["flags-rehearsal"] = [line for line in old + known(1210, 13, seen) if bare(line) not in measured][:1600]
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def bare(line: str) -> str:
    """Return the letters and digits of a line's question: another case or a missing question mark is the same question."""
    return "".join(filter(str.isalnum, json.loads(line)["prompt"].casefold()))


def wishes(count: int, frames: tuple[str, ...], key: str, chance: random.Random, seen: set[str]) -> list[str]:
    """Return wishes that were not seen before, with their commands, as lines."""
    lines: list[str] = []
    while len(lines) < count:
        wish, command = example(chance, frames)
        if wish not in seen:
            seen.add(wish)
            lines.append(json.dumps({"prompt": wish, key: command}) + "\n")
    return lines


if __name__ == "__main__":
    main()
