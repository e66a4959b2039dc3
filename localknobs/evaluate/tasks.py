"""Tasks: questions in a JSONL file, and whether an answer is right.

One JSON object a line. `prompt` (or `messages`) is asked through the model's chat template, or with `"raw": true`
continued as it stands. What makes an answer right is one of:

    "choices": [...], "answer": index or text   the choice with the highest log-probability
    "answer": text or [texts]                   the answer is one of them, but for case, spaces and a final full stop
    "regex": pattern or [patterns]              each is found in the answer (case does not count)
    "schema": {...}                             the answer is JSON that the schema allows; "answer" may name its value

Also: `system` (a message before), `max_tokens` (default 64), `group` (reported apart). Judging needs no model: a
changed pattern judges the answers that were kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localknobs.convert.imatrix import text_bytes
from localknobs.errors import BadFile, BadValue
from localknobs.evaluate.config import SHIPPED
from localknobs.paths import user_path

GENERAL = tuple(name for name in SHIPPED if name != "built-in")
MOST_TOKENS = 4096
_KEYS = {
    "prompt", "messages", "raw", "system", "choices", "answer", "regex", "schema", "max_tokens", "group", "id",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One question.

    Args:
        suite: Name of its suite.
        line: Its line in the file, from 1.
        group: Reported apart; the suite's name where it has none.
        messages: The conversation that ends with the question; for a raw one, a single message.
        raw: Whether the text is continued as it stands.
        choices: Continuations to choose from; empty where the model writes its answer.
        max_tokens: Most tokens of an answer.
        rule: What makes it right: the keys of the line that say so.
    """

    suite: str
    line: int
    group: str
    messages: tuple[tuple[str, str], ...]
    raw: bool
    choices: tuple[str, ...]
    max_tokens: int
    rule: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What tells its answers from those of another question; the rule does not count."""
        asked = json.dumps([self.messages, self.raw, self.choices, self.max_tokens])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    def as_order(self) -> dict[str, Any]:
        """Return it as plain data for the measuring process."""
        return {
            "item": self.key, "messages": [{"role": role, "content": text} for role, text in self.messages],
            "raw": self.raw, "choices": list(self.choices), "max_tokens": self.max_tokens,
        }  # fmt: skip


def shipped_suite(name: str) -> Path:
    """Return the file of a suite that comes with the program."""
    return Path(__file__).with_name("data") / f"{name}.jsonl"


def read_suite(name: str) -> list[Item]:
    """Read a suite by its name or its file.

    Raises:
        NotFound, BadFile: there is no such file, or a line of it is wrong; the message names the line.
    """
    file = shipped_suite(name) if name in SHIPPED else user_path(name)
    text = text_bytes(file).decode("utf-8")
    suite = name if name in SHIPPED else file.stem
    items = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                items.append(_item(suite, number, line))
            except BadValue as error:
                raise BadFile(f"Line {number} of {file} is no task: {error.message}", error.hint) from None
    if not items:
        raise BadFile(f"{file} has no tasks", "Each line is a JSON object, such as "
                      '{"prompt": "2+2=", "answer": "4"}.')  # fmt: skip
    return items


def _item(suite: str, number: int, line: str) -> Item:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise BadValue(f"it is not JSON ({error})", "Write one JSON object a line.") from None
    except RecursionError:
        raise BadValue("it is nested too deep", "Write one flat JSON object a line.") from None
    if not isinstance(data, dict):
        raise BadValue("it is not a JSON object", "Write one JSON object a line, in braces.")
    if unknown := sorted(set(data) - _KEYS):
        raise BadValue(f"it has the unknown key {unknown[0]!r}", f"Keys are {', '.join(sorted(_KEYS))}.")
    choices = data.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(one, str) and one for one in choices) or len(choices) == 1:
        raise BadValue("`choices` is not a list of two texts or more", 'Write "choices": ["a", "b"].')
    tokens = data.get("max_tokens", 64)
    if type(tokens) is not int or not 1 <= tokens <= MOST_TOKENS:
        raise BadValue("`max_tokens` is not a number of tokens", f"It takes 1 to {MOST_TOKENS:,}.")
    group = data.get("group", suite)
    raw = data.get("raw", False)
    if not isinstance(group, str) or not isinstance(raw, bool):
        raise BadValue("`group` is not a text, or `raw` not true or false", "Leave it out, or mend it.")
    return Item(
        suite, number, group, _messages(data, raw), raw, tuple(choices), tokens, _rule(data, choices)
    )  # fmt: skip


def _messages(data: dict[str, Any], raw: bool) -> tuple[tuple[str, str], ...]:
    if ("prompt" in data) == ("messages" in data):
        raise BadValue("it has neither `prompt` nor `messages`, or both", "Give one of them.")
    messages: Any = data.get("messages", [{"role": "user", "content": data.get("prompt")}])
    if "system" in data:
        messages = [{"role": "system", "content": data["system"]}, *messages]
    try:
        found = tuple((str(message["role"]), message["content"]) for message in messages)
    except (TypeError, KeyError, LookupError):
        raise BadValue(
            "`messages` is not a list of role and content", 'Write {"role": "user", "content": "..."}.'
        ) from None
    if not found or not all(isinstance(text, str) and text for _, text in found):
        raise BadValue("a message is not a text, or is empty", "Write the question as a text.")
    if found[-1][0] != "user" or any(role not in ("system", "user", "assistant") for role, _ in found):
        raise BadValue("the last message is not the user's, or a role is unknown", "Roles: system, user, assistant.")
    if raw and len(found) > 1:
        raise BadValue("a raw prompt has one text", "Leave `system` and `messages` out.")
    return found


def _rule(data: dict[str, Any], choices: Sequence[str]) -> dict[str, Any]:
    """Return the keys that make an answer right, checked."""
    if choices:
        answer = data.get("answer")
        if isinstance(answer, str) and answer in choices:
            answer = choices.index(answer)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise BadValue("`answer` is none of its choices", "Give the text of the right choice, or its index from 0.")
        return {"choice": answer}
    if "schema" in data:
        return {"schema": _schema(data["schema"]), **({"value": data["answer"]} if "answer" in data else {})}
    if "regex" in data:
        patterns = data["regex"] if isinstance(data["regex"], list) else [data["regex"]]
        for pattern in patterns:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise BadValue(f"`regex` is no pattern ({error})", "Write it as Python's `re` reads it.") from None
        return {"regex": patterns}
    answers = data.get("answer")
    answers = answers if isinstance(answers, list) else [answers]
    if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
        raise BadValue("it does not say what is right", "Give `answer`, `choices`, `regex` or `schema`.")
    return {"texts": answers}


def _schema(schema: Any) -> Any:
    from jsonschema import Draft202012Validator, SchemaError  # 40 ms

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise BadValue(f"`schema` is no JSON schema ({error.message})", "See json-schema.org.") from None
    return schema


# ---- judging ------------------------------------------------------------------------------------


def is_right(item: Item, record: Mapping[str, Any]) -> bool:
    """Return whether an answer is right.

    Args:
        item: The question.
        record: What the measuring process said: `text`, or `scores` of the choices.
    """
    if "choice" in item.rule:
        scores = record["scores"]
        return bool(max(range(len(scores)), key=scores.__getitem__) == item.rule["choice"])
    text = record["text"]
    if "regex" in item.rule:
        return all(re.search(pattern, text, re.IGNORECASE | re.DOTALL) for pattern in item.rule["regex"])
    if "schema" in item.rule:
        return _fits_schema(item.rule, text)
    return _plain(text) in {_plain(answer) for answer in item.rule["texts"]}


def is_right_by_length(item: Item, record: Mapping[str, Any]) -> bool:
    """Return whether the right choice wins when each one's log-probability is divided by its length in bytes."""
    scores = [score / len(choice.encode()) for score, choice in zip(record["scores"], item.choices, strict=True)]
    return bool(max(range(len(scores)), key=scores.__getitem__) == item.rule["choice"])


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").strip().casefold()


_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)


def _fits_schema(rule: Mapping[str, Any], text: str) -> bool:
    from jsonschema import Draft202012Validator

    fenced = _FENCE.match(text.strip())  # the way chat models show JSON
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return Draft202012Validator(rule["schema"]).is_valid(value) and ("value" not in rule or value == rule["value"])
