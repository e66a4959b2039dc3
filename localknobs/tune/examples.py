"""Examples to learn from, read from a file, each with the line it stands on; nothing here knows a model.

A file of JSON lines holds conversations (`messages`, or `conversations` as ShareGPT has them), questions with answers
(`prompt` and `completion`, or the names other programs use), or texts (`text`). Any other file is one plain text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from localknobs.convert.imatrix import text_bytes
from localknobs.errors import BadFile, BadValue, NotFound

SHIPPED = {"flags": "wishes in plain words, answered by the flags of `localknobs chat` that grant them"}
"""The example sets that come with the program."""
ROLES = ("system", "user", "assistant", "tool")
_TELLING_LETTERS = 20
"""Fewer letters in a line of a text are in many texts, such as a line of code that only closes something."""
_SHAREGPT = {"human": "user", "gpt": "assistant"}
_ASKED, _ANSWERED = ("prompt", "instruction", "question"), ("completion", "response", "output", "answer")
_FORMS = (
    'Each line is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, '
    '{"prompt": "...", "completion": "..."} or {"text": "..."}.'
)
Kind = Literal["chat", "text"]


@dataclass(frozen=True, slots=True)
class Example:
    """One example.

    Args:
        line: Its line in the file, from 1.
        kind: `chat`: its last message is the assistant's, and what the assistant says is learned; `text`: all of it is.
        messages: (role, content) in turn; of a text one, without a role.
    """

    line: int
    kind: Kind
    messages: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """A hash of what it says."""
        return _mark(self.messages)

    @property
    def most_tokens(self) -> int:
        """More tokens than it can have: its bytes, and some for the template around each message."""
        return sum(len(content.encode()) + 32 for _, content in self.messages) + 32

    def as_order(self) -> dict[str, Any]:
        """Return it as plain data for the training process."""
        return {
            "line": self.line,
            "kind": self.kind,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
        }


def shipped_examples(name: str, part: str = "") -> Path:
    """Return the file of an example set that comes with the program, or of a part of it, such as `-held-out`."""
    return Path(__file__).with_name("data") / f"{name}{part}.jsonl"


def read_examples(file: Path) -> list[Example]:
    """Read a file of examples.

    Raises:
        NotFound, BadFile: there is no such file, or a line of it is wrong; the message names the line.
    """
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise NotFound(f"The data {file} {kind}", f"Name a file of examples, or a shipped set: {', '.join(SHIPPED)}.")
    text = text_bytes(file).decode("utf-8").removeprefix("\ufeff")
    if file.suffix.lower() not in (".jsonl", ".json", ".ndjson"):
        if not text.strip():
            raise BadFile(f"{file} is empty", "Give a text, or JSON lines. " + _FORMS)
        return [Example(1, "text", (("", text),))]
    found = []
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold other line ends of Unicode
        if line.strip():
            try:
                found.append(_example(number, line))
            except BadValue as error:
                raise BadFile(f"Line {number} of {file} is no example: {error.message}", error.hint) from None
    if not found:
        raise BadFile(f"{file} has no examples", _FORMS)
    return found


def split(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Return the examples to learn from and those held out, chosen by their hashes: copies stay together.

    Args:
        examples: All of them.
        share: 0 to 0.5.
    """
    border = int(share * 2**32)
    kept: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        kept[int(example.key[:8], 16) < border].append(example)
    return kept


def apart_from(examples: Sequence[Example], others: Sequence[Example]) -> tuple[list[Example], int]:
    """Return examples without what others have too, and how many questions and lines of texts were left out.

    Args:
        examples: Those that are kept where they are new: of a conversation what the last answer is given to counts,
            of a text each line.
        others: What must not be in them.
    """
    known = {mark for example in others for mark in _marks(example)}
    kept, left_out = [], 0
    for example in examples:
        seen = _marks(example) & known
        left_out += len(seen)
        if seen and example.kind == "text":
            lines = [line for line in example.messages[0][1].split("\n") if _mark(_bare(line)) not in seen]
            example = Example(example.line, "text", (("", "\n".join(lines)),))
        if not seen or (example.kind == "text" and example.messages[0][1].strip()):
            kept.append(example)
    return kept, left_out


def _marks(example: Example) -> set[str]:
    """Return hashes of what an example is found by in another set."""
    if example.kind == "chat":
        return {_mark([(role, _bare(content)) for role, content in example.messages[:-1]])}
    lines = (_bare(line) for line in example.messages[0][1].split("\n"))
    return {_mark(line) for line in lines if len(line) >= _TELLING_LETTERS}


def _bare(text: str) -> str:
    """Return letters and digits alone: another case or a missing question mark makes no other question."""
    return "".join(filter(str.isalnum, text.casefold()))


def _mark(said: Any) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _example(number: int, line: str) -> Example:
    try:
        data = json.loads(line)
    except ValueError as error:
        if number == 1 and line.lstrip().startswith("["):
            raise BadValue("the file is one JSON list", "Write one object a line: jq -c '.[]' F > F.jsonl") from None
        raise BadValue(f"it is not JSON ({error})", _FORMS) from None
    except RecursionError:
        raise BadValue("it is nested too deep", _FORMS) from None
    if not isinstance(data, dict):
        raise BadValue("it is not a JSON object", _FORMS)
    turns = data.get("messages", data.get("conversations"))
    if turns is not None:
        return Example(number, "chat", _messages(turns))
    asked = next((data[key] for key in _ASKED if key in data), None)
    answered = next((data[key] for key in _ANSWERED if key in data), None)
    if asked is not None or answered is not None:
        if isinstance(data.get("input"), str) and data["input"].strip():  # as Alpaca has it
            asked = f"{asked}\n\n{data['input']}"
        system = [{"role": "system", "content": data["system"]}] if "system" in data else []
        turns = [*system, {"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return Example(number, "chat", _messages(turns))
    if "text" in data:
        if not isinstance(data["text"], str) or not data["text"].strip():
            raise BadValue("`text` is not a text, or is empty", "Leave the line out, or mend it.")
        return Example(number, "text", (("", data["text"]),))
    raise BadValue(f"it has none of the keys known here, but {', '.join(sorted(map(str, data))) or 'none'}", _FORMS)


def _messages(turns: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(turns, list) or not turns:
        raise BadValue("its conversation is not a list of messages", _FORMS)
    found = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise BadValue(f"message {number} is not an object of role and content", _FORMS)
        role = turn.get("role", turn.get("from"))
        role = _SHAREGPT.get(str(role), role)
        content = turn.get("content", turn.get("value"))
        if role not in ROLES:
            raise BadValue(f"message {number} has the role {role!r}", f"Roles are {', '.join(ROLES)}.")
        if not isinstance(content, str) or (not content.strip() and role != "system"):
            raise BadValue(f"the {role}'s text (message {number}) is missing, empty or no text", "Mend the line.")
        found.append((role, content))
    if found[-1][0] != "assistant":
        raise BadValue("its last message is not the assistant's: there is no answer to learn", "Leave the line out.")
    return tuple(found)
