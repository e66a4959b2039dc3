"""Saved conversations: a tree of messages in a journal, so that a crash of the program loses nothing.

A message is written before it is answered, an answer's text in pieces as it comes; an answer without
its `finished` record was interrupted. Editing and regenerating add siblings: nothing is overwritten.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from localknobs.engine.events import Message
from localknobs.errors import BadFile, LocalknobsError
from localknobs.journal import Journal
from localknobs.paths import conversations_folder, parked_cache_file

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
        title: The first words of the user.
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
        system: System prompt of a new one, may be empty; kept in the file.

    Attributes:
        unsaved: Why a new one is in memory only, with what to do about it; empty when it is saved.
    """

    def __init__(self, path: Path | None = None, model: str = "", system: str = "") -> None:
        self.nodes: dict[int, Node] = {}
        self.leaf = ROOT
        self.title = ""
        self.model = model
        self.system = system
        self.path = path or conversations_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}.jsonl"
        self.unsaved = ""
        self._journal = Journal(self.path, "conversation")
        self._begun = path is not None  # the file has its first record
        self._waiting: list[Mapping[str, Any]] = []  # what the disk refused so far, oldest first
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

    def messages(self) -> list[Message]:
        """Return the branch as the engine takes it, with the system prompt in front when there is one."""
        head = [Message(role="system", content=self.system)] if self.system else []
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
        self.rewind(at)

    def rewind(self, to: int) -> None:
        """End the shown branch with message `to`, which the next one will follow (`ROOT` for none)."""
        if to != self.leaf:
            self._append({"show": to})
            self.leaf = to

    # ---- writing ------------------------------------------------------------------------------

    def add(self, role: Role, text: str) -> Node:
        """Add a message after the shown last one; it is on disk when this returns, unless `unsaved` says why not."""
        node = Node(max(self.nodes, default=ROOT) + 1, self.leaf, role, text)
        self._append({"message": node.id, "parent": node.parent, "role": role, "text": text})
        self._take_node(node)
        return node

    def grow(self, node: Node, text: str) -> None:
        """Add text to the end of an answer."""
        if text:
            # Kept in memory even if the disk refuses: the reader has seen it.
            node.text, node.reason = node.text + text, ""
            self._append({"grow": node.id, "text": text}, happened=True)

    def mark(self, node: Node, at: int, changes: Mapping[str, Any]) -> None:
        """Note that knobs changed when the answer had `at` characters."""
        node.marks.append((at, dict(changes)))
        self._append({"mark": node.id, "at": at, "changes": dict(changes)}, happened=True)

    def finish(self, node: Node, reason: str, stats: Mapping[str, Any] | None = None) -> None:
        """Note that an answer came to its end, and why."""
        node.reason, node.stats = reason, dict(stats or {})
        self._append({"finished": node.id, "reason": reason, "stats": node.stats}, happened=True)

    def instruct(self, system: str) -> None:
        """Use another system prompt from the next answer on; the empty text for none."""
        if self.nodes:
            self._append({"system": system})
        self.system = system

    def close(self) -> None:
        """Close the file; a later addition opens it again."""
        if self._waiting:
            # A last try, in case there is space again; that the disk refused was said each time.
            with contextlib.suppress(LocalknobsError):
                self._write(self._waiting)
        self._journal.close()

    def _append(self, record: Mapping[str, Any], *, happened: bool = False) -> None:
        """Write a record after those that wait; one of what `happened` already waits with them if the disk refuses."""
        waiting = [*self._waiting, record]
        if happened or self.unsaved:
            self._waiting = waiting
        if self.unsaved and "message" not in record:
            return  # tried again with every message, not with every word
        try:
            self._write(waiting)
        except LocalknobsError as error:
            if self._begun:
                raise
            self.unsaved, self._waiting = str(error), waiting

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._journal.append(records, first=self._first_record())
        self._begun, self.unsaved, self._waiting = True, "", []

    def _first_record(self) -> dict[str, Any]:
        return {"conversation": 1, "model": self.model, "system": self.system, "began": time.time()}

    # ---- reading ------------------------------------------------------------------------------

    def _read(self) -> None:
        records = self._journal.read()
        for record in records:
            # A record of another version, or damaged: the others are still good.
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                self._take(record)
        if not self.nodes and not any("conversation" in record for record in records):
            raise BadFile(f"{self.path} is not a saved conversation", "Choose a file that localknobs wrote.")

    def _take(self, record: dict[str, Any]) -> None:
        if "message" in record:
            node = Node(int(record["message"]), int(record["parent"]), cast(Role, record["role"]), str(record["text"]))
            known = node.parent == ROOT or node.parent in self.nodes
            # Parents before children, each number once: so no branch can run in a circle.
            if known and ROOT <= node.parent < node.id not in self.nodes and node.role in get_args(Role):
                self._take_node(node)
        elif "grow" in record:
            self.nodes[record["grow"]].text += str(record["text"])
            self.nodes[record["grow"]].reason = ""
        elif "mark" in record:
            self.nodes[record["mark"]].marks.append((int(record["at"]), dict(record["changes"])))
        elif "finished" in record:
            node = self.nodes[record["finished"]]
            node.reason, node.stats = str(record["reason"]), _plain(record.get("stats"))
        elif "show" in record:
            shown = int(record["show"])
            self.leaf = shown if shown == ROOT or shown in self.nodes else self.leaf
        elif "conversation" in record:
            self.model, self.system = str(record.get("model", "")), str(record.get("system", ""))
        elif "system" in record:
            self.system = str(record["system"])

    def _take_node(self, node: Node) -> None:
        self.nodes[node.id] = node
        self.leaf = node.id
        if node.role == "user" and not self.title:
            self.title = _title(node.text)


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
            last = conversation.nodes.get(conversation.leaf)
            # A question whose answer never began was interrupted too.
            cut = last is not None and (last.interrupted or last.role == "user")
            title = conversation.title or "untitled"
            found.append(ConversationEntry(file, title, changed, len(conversation.nodes), cut))
    return sorted(found, key=lambda entry: entry.changed, reverse=True)


def delete_conversation(path: Path) -> None:
    """Delete a saved conversation and the cache put aside for it; one that is gone already is no error.

    Raises:
        LocalknobsError: it is open in another window, or here and not closed yet; or the disk refuses.
    """
    Journal(path, "conversation").delete()
    with contextlib.suppress(OSError):  # it can be made again, and is among the first to be evicted
        parked_cache_file(path.stem).unlink(missing_ok=True)


def plain_text(nodes: Sequence[Node]) -> str:
    """Return messages as Markdown, for `/save` and the clipboard."""
    return "\n\n".join(f"**{node.role}**\n\n{node.text}" for node in nodes) + "\n"


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def _plain(stats: object) -> dict[str, Any]:
    """Return counts and times from a file without what no reader could show."""
    return {
        name: value
        for name, value in (stats.items() if isinstance(stats, dict) else ())
        # Not NaN, infinity, or a number too long to print.
        if isinstance(value, str)
        or (isinstance(value, list) and all(isinstance(text, str) for text in value))
        or (type(value) in (int, float) and abs(value) < 1e15)
    }
