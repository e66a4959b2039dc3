"""Saved conversations: a tree of messages in a file that only grows, so that a crash loses nothing.

One JSON object a line. A message is added before it is answered, an answer's text in pieces as it
is written. A torn last line, the mark of a crash, is skipped; an answer without its `finished`
line was interrupted. Editing and regenerating add siblings: nothing is ever overwritten.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from localknobs.engine.events import Message
from localknobs.errors import BadFile, LocalknobsError, NotFound
from localknobs.paths import conversations_folder

Role = Literal["system", "user", "assistant"]
ROOT = 0
TITLE_LENGTH = 60


@dataclass(slots=True)
class Node:
    """One message of the tree.

    Args:
        id: Its number in the file, from 1.
        parent: Number of the message before it, `ROOT` for the first.
        role: Who says it.
        text: What is said.
        reason: Why an answer ended (`FinishReason`); empty while it is written or when it was interrupted.
        marks: Knob changes while it was written, as (length of the text then, name to value).
        stats: Counts and times of the answer (`Stats` as a mapping).
    """

    id: int
    parent: int
    role: Role
    text: str
    reason: str = ""
    marks: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        """Whether this is an answer that never came to its end."""
        return self.role == "assistant" and not self.reason


@dataclass(frozen=True, slots=True)
class ConversationEntry:
    """A line of the list of saved conversations.

    Args:
        path: Its file.
        title: The first words of the user, or the name given to it.
        changed: When it was last written, seconds since 1970.
        messages: Messages in the file, all branches.
        interrupted: The last answer did not come to its end.
    """

    path: Path
    title: str
    changed: float
    messages: int
    interrupted: bool


class Conversation:
    """A conversation and the branch of it that is shown.

    Args:
        path: File to continue; None for a new one, whose file appears with its first message.
        model: Name of the model, kept in a new file.
    """

    def __init__(self, path: Path | None = None, model: str = "") -> None:
        self.nodes: dict[int, Node] = {}
        self.leaf = ROOT
        self.title = ""
        self.model = model
        self._file: BinaryIO | None = None
        self.path = path or conversations_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}.jsonl"
        if path is not None:
            self._read()

    # ---- what is shown ------------------------------------------------------------------------

    def branch(self) -> list[Node]:
        """Return the messages from the first to the shown last one."""
        found = []
        at = self.leaf
        while at != ROOT:
            node = self.nodes[at]
            found.append(node)
            at = node.parent
        return found[::-1]

    def messages(self, system: str = "") -> list[Message]:
        """Return the branch as the engine takes it, with a system prompt in front when there is one."""
        head = [Message(role="system", content=system)] if system else []
        return head + [
            Message(role=node.role, content=node.text) for node in self.branch() if node.text or node.role == "user"
        ]

    def siblings(self, node: Node) -> list[Node]:
        """Return the alternatives at the place of a message, itself included, oldest first."""
        return [other for other in self.nodes.values() if other.parent == node.parent and other.role == node.role]

    def show(self, node: Node) -> None:
        """Show the branch through a message, down to its newest end."""
        at = node.id
        while children := [other.id for other in self.nodes.values() if other.parent == at]:
            at = max(children)
        self.leaf = at
        self._append({"show": at})

    def rewind(self, to: int) -> None:
        """Let the next message follow message `to` (`ROOT` for none)."""
        self.leaf = to

    # ---- writing ------------------------------------------------------------------------------

    def add(self, role: Role, text: str) -> Node:
        """Add a message after the shown last one; it is on disk when this returns."""
        node = Node(max(self.nodes, default=ROOT) + 1, self.leaf, role, text)
        self.nodes[node.id] = node
        self.leaf = node.id
        if role == "user" and not self.title:
            self.title = _title(text)
        self._append({"message": node.id, "parent": node.parent, "role": role, "text": text})
        return node

    def grow(self, node: Node, text: str) -> None:
        """Add text to the end of an answer."""
        if text:
            node.text += text
            self._append({"grow": node.id, "text": text})

    def mark(self, node: Node, at: int, changes: Mapping[str, Any]) -> None:
        """Note that knobs changed when the answer had `at` characters."""
        node.marks.append((at, dict(changes)))
        self._append({"mark": node.id, "at": at, "changes": dict(changes)})

    def finish(self, node: Node, reason: str, stats: Mapping[str, Any] | None = None) -> None:
        """Note that an answer came to its end, and why."""
        node.reason, node.stats = reason, dict(stats or {})
        self._append({"finished": node.id, "reason": reason, "stats": node.stats})

    def rename(self, title: str) -> None:
        """Give it another title."""
        self.title = _title(title) or self.title
        self._append({"title": self.title})

    def close(self) -> None:
        """Close the file; a later addition opens it again."""
        if self._file:
            self._file.close()
            self._file = None

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self.path.exists()
            # Private: a conversation is nobody else's business on a shared machine.
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._file = open(handle, "ab", buffering=0)
            self._lock()
            if fresh:
                self._write({"conversation": 1, "model": self.model, "began": time.time()})
            else:
                self._end_torn_line()
        self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None
        try:
            self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        except OSError as error:
            raise LocalknobsError(
                f"The conversation cannot be saved: {error.strerror}", f"Free some space, or check {self.path.parent}."
            ) from None

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise LocalknobsError(
                "This conversation is open in another window", "Close it there, or start a new one."
            ) from None

    def _end_torn_line(self) -> None:
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                assert self._file is not None
                self._file.write(b"\n")

    # ---- reading ------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"There is no conversation {self.path}", "It may have been deleted.") from None
        except OSError as error:
            raise BadFile(f"{self.path} cannot be read: {error.strerror}", "Check its permissions.") from None
        for record in _records(data):
            with contextlib.suppress(KeyError, TypeError, ValueError):  # a line of another version, or damaged
                self._take(record)
        if not self.nodes and not data.startswith(b'{"conversation"'):
            raise BadFile(f"{self.path} is not a saved conversation", "Choose a file that localknobs wrote.")

    def _take(self, record: dict[str, Any]) -> None:
        if "message" in record:
            number, parent, role = int(record["message"]), int(record["parent"]), record["role"]
            if (
                role not in ("system", "user", "assistant")
                or (parent != ROOT and parent not in self.nodes)
                or parent >= number
            ):
                return
            self.nodes[number] = Node(number, parent, cast(Role, role), str(record["text"]))
            self.leaf = number
            if role == "user" and not self.title:
                self.title = _title(str(record["text"]))
        elif "grow" in record:
            self.nodes[record["grow"]].text += str(record["text"])
            self.nodes[record["grow"]].reason = ""
        elif "mark" in record:
            self.nodes[record["mark"]].marks.append((int(record["at"]), dict(record["changes"])))
        elif "finished" in record:
            node = self.nodes[record["finished"]]
            node.reason, node.stats = str(record["reason"]), dict(record["stats"])
        elif "show" in record and record["show"] in self.nodes:
            self.leaf = record["show"]
        elif "title" in record:
            self.title = _title(str(record["title"]))
        elif "conversation" in record:
            self.model = str(record.get("model", ""))


def saved_conversations() -> list[ConversationEntry]:
    """Return the saved conversations that have a message, the latest first; files that are none are left out."""
    found = []
    for file in conversations_folder().glob("*.jsonl"):
        try:
            conversation = Conversation(file)
            changed = file.stat().st_mtime
        except (LocalknobsError, OSError):
            continue
        if conversation.nodes:
            last = conversation.nodes[conversation.leaf]
            found.append(
                ConversationEntry(
                    file, conversation.title or "untitled", changed, len(conversation.nodes), last.interrupted
                )
            )
    return sorted(found, key=lambda entry: entry.changed, reverse=True)


def delete_conversation(path: Path) -> None:
    """Delete a saved conversation; one that is gone already is no error."""
    path.unlink(missing_ok=True)


def plain_text(nodes: Sequence[Node]) -> str:
    """Return messages as Markdown, for `/save` and the clipboard."""
    return "\n\n".join(f"**{node.role}**\n\n{node.text}" for node in nodes) + "\n"


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        if line:
            with contextlib.suppress(ValueError):
                record = json.loads(line.decode("utf-8", "surrogatepass"))
                if isinstance(record, dict):
                    yield record


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
