"""Write the built-in model's own questions as a suite of tasks: `python models/recipe/suite.py`.

Wordings that are in no corpus (`corpus/held_out.toml`); an answer is right when it has every fact of its topic.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from corpus import CORPUS, read_topics
from evaluate import LEVER_OF

SUITE = Path(__file__).parents[2] / "localknobs" / "evaluate" / "data" / "built-in.jsonl"


def suite_text() -> str:
    """Return the suite, one JSON object a line."""
    held_out = tomllib.loads((CORPUS / "held_out.toml").read_text(encoding="utf-8"))
    facts = {topic.id: list(topic.facts) for topic in read_topics()}
    lines = [
        {"prompt": question, "regex": facts[topic], "max_tokens": 160, "group": LEVER_OF[topic.split(".")[0]]}
        for topic, questions in held_out["topics"].items()
        for question in questions
    ]
    lines += [
        {"prompt": question, "regex": "not know", "max_tokens": 160, "group": "says it does not know"}
        for question in held_out["unknown"]
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


if __name__ == "__main__":
    SUITE.write_text(suite_text(), encoding="utf-8")
