"""Saved conversations: what a crash, a full disk or a second window leaves behind."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from localknobs.conversations import (
    ROOT,
    Conversation,
    delete_conversation,
    plain_text,
    saved_conversations,
)
from localknobs.errors import BadFile, LocalknobsError, NotFound
from localknobs.paths import conversations_folder, parked_cache_file


def texts(conversation: Conversation) -> list[str]:
    return [node.text for node in conversation.branch()]


def answered(*turns: tuple[str, str]) -> Conversation:
    """Return a saved conversation of questions and finished answers."""
    conversation = Conversation(model="built-in")
    for question, answer in turns:
        conversation.add("user", question)
        node = conversation.add("assistant", "")
        conversation.grow(node, answer)
        conversation.finish(node, "end", {"generated_tokens": 3})
    return conversation


def test_nothing_is_written_before_the_first_message_and_all_of_it_at_once_after():
    conversation = Conversation(model="built-in")
    assert not conversation.path.exists() and saved_conversations() == []
    conversation.add("user", "Hello")
    again = Conversation(conversation.path)
    assert texts(again) == ["Hello"] and again.model == "built-in" and again.title == "Hello"
    assert conversation.path.stat().st_mode & 0o077 == 0, "nobody else may read it"


def test_an_answer_is_on_disk_while_it_grows_and_interrupted_until_it_is_finished():
    conversation = Conversation()
    conversation.add("user", "Hi")
    node = conversation.add("assistant", "")
    for piece in ("Good ", "day\n", "— ça va 😀"):
        conversation.grow(node, piece)
        seen = Conversation(conversation.path).branch()[-1]
        assert seen.text == node.text and seen.interrupted
    conversation.mark(node, 5, {"temp": 0.2})
    conversation.finish(node, "end", {"generated_tokens": 4})
    seen = Conversation(conversation.path).branch()[-1]
    assert not seen.interrupted and seen.reason == "end" and seen.stats == {"generated_tokens": 4}
    assert seen.marks == [(5, {"temp": 0.2})]


def test_going_on_with_a_finished_answer_opens_it_again():
    conversation = answered(("Hi", "Hello"))
    node = conversation.branch()[-1]
    conversation.grow(node, " there")
    assert node.interrupted and Conversation(conversation.path).branch()[-1].interrupted


def test_text_that_is_no_unicode_survives():
    conversation = Conversation()
    conversation.add("user", "half \ud83d\u2028 pair\x00")
    assert texts(Conversation(conversation.path)) == ["half \ud83d\u2028 pair\x00"]


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8, 0.99])
def test_cut_in_mid_line_everything_before_it_is_there_and_it_can_be_gone_on_with(kept):
    conversation = answered(("First", "One"), ("Second", "Two"))
    conversation.close()
    whole = conversation.path.read_bytes()
    cut = whole[: int(len(whole) * kept)]
    cut = cut if not cut.endswith(b"\n") else cut[:-1]
    conversation.path.write_bytes(cut)
    again = Conversation(conversation.path)
    before = texts(again)
    kept_turns = ["First", "One", "Second", "Two"][: len(before)]
    assert before in (kept_turns, [*kept_turns[:-1], ""]), "an answer that was cut is an empty one"
    again.add("user", "Third")
    again.close()
    assert texts(Conversation(conversation.path)) == [*before, "Third"]
    assert conversation.path.read_bytes().startswith(cut), "what was there is not touched"


def test_a_writer_that_is_killed_leaves_what_it_wrote(home):
    program = (
        "import os, signal\n"
        "from localknobs.conversations import Conversation\n"
        "c = Conversation(); c.add('user', 'Hi'); n = c.add('assistant', ''); c.grow(n, 'partly')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -9
    (entry,) = saved_conversations()
    assert entry.interrupted and entry.messages == 2
    again = Conversation(entry.path)
    assert texts(again) == ["Hi", "partly"]
    again.finish(again.branch()[-1], "stopped")
    assert not saved_conversations()[0].interrupted, "the dead process holds no lock"


def test_a_question_without_an_answer_was_interrupted():
    conversation = Conversation()
    conversation.add("user", "Hi")
    assert saved_conversations()[0].interrupted


def test_regenerating_adds_a_sibling_and_the_one_shown_last_is_shown_again():
    conversation = answered(("Hi", "Hello"))
    first = conversation.branch()[-1]
    conversation.rewind(first.parent)
    second = conversation.add("assistant", "Good day")
    conversation.finish(second, "end")
    assert texts(Conversation(conversation.path)) == ["Hi", "Good day"]
    assert [node.text for node in conversation.siblings(first)] == ["Hello", "Good day"]
    conversation.show(first)
    again = Conversation(conversation.path)
    assert texts(again) == ["Hi", "Hello"]
    assert [node.text for node in again.siblings(again.branch()[-1])] == ["Hello", "Good day"]


def test_showing_a_message_follows_its_newest_end():
    conversation = answered(("A", "a"), ("B", "b"))
    asked = conversation.branch()[0]
    conversation.rewind(conversation.branch()[1].id)
    conversation.add("user", "C")
    conversation.show(asked)
    assert texts(conversation) == ["A", "a", "C"] == texts(Conversation(conversation.path))


@pytest.mark.parametrize("steps", range(4))
def test_a_rewound_branch_is_found_again_with_and_without_a_new_message(steps):
    conversation = answered(("A", "a"), ("B", "b"))
    branch = conversation.branch()
    to = branch[steps - 1].id if steps else ROOT
    conversation.rewind(to)
    assert texts(Conversation(conversation.path)) == ["A", "a", "B", "b"][:steps]
    assert saved_conversations()[0].title == "A", "a branch rewound to nothing is listed like any other"
    conversation.add("user", "new")
    assert texts(Conversation(conversation.path)) == [*["A", "a", "B", "b"][:steps], "new"]


def test_rewinding_an_empty_conversation_writes_nothing():
    conversation = Conversation()
    conversation.rewind(ROOT)
    assert not conversation.path.exists()


def test_the_engine_gets_the_branch_without_empty_answers():
    conversation = Conversation()
    conversation.add("user", "Hi")
    conversation.add("assistant", "")
    assert conversation.messages() == [{"role": "user", "content": "Hi"}]


def test_the_system_prompt_is_kept_with_the_conversation():
    conversation = Conversation(system="Be kind.")
    conversation.add("user", "Hi")
    first = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert Conversation(conversation.path).messages() == conversation.messages() == first
    conversation.instruct("Be brief.")
    assert Conversation(conversation.path).messages()[0]["content"] == "Be brief."
    conversation.instruct("")
    assert Conversation(conversation.path).messages() == first[1:]


def test_instructing_an_empty_conversation_writes_nothing_yet():
    conversation = Conversation()
    conversation.instruct("Be kind.")
    assert not conversation.path.exists()
    conversation.add("user", "Hi")
    assert Conversation(conversation.path).system == "Be kind."


def test_another_process_cannot_write_to_an_open_conversation():
    conversation = answered(("Hi", "Hello"))
    program = (
        "import sys; from pathlib import Path\n"
        "from localknobs.conversations import Conversation\n"
        "c = Conversation(Path(sys.argv[1])); print(len(c.nodes))\n"
        "c.add('user', 'me too')\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", program, str(conversation.path)], capture_output=True, text=True, check=False
    )
    assert other.stdout == "2\n" and "open in another window" in other.stderr
    conversation.close()
    other = subprocess.run([sys.executable, "-c", program, str(conversation.path)], capture_output=True, check=False)
    assert other.returncode == 0
    with pytest.raises(LocalknobsError, match="changed in another window"):
        conversation.add("user", "and I")
    assert texts(conversation) == ["Hi", "Hello"], "what could not be saved is not in the conversation"
    assert texts(Conversation(conversation.path)) == ["Hi", "Hello", "me too"]


def test_a_conversation_deleted_meanwhile_does_not_come_back_as_half_of_itself():
    conversation = answered(("Hi", "Hello"))
    conversation.close()
    delete_conversation(conversation.path)
    with pytest.raises(LocalknobsError, match="deleted meanwhile"):
        conversation.add("user", "again")
    assert not conversation.path.exists()
    delete_conversation(conversation.path)


def test_a_conversation_deleted_while_it_is_open_is_told_with_the_next_record():
    conversation = answered(("Hi", "Hello"))
    conversation.path.unlink()
    for _ in range(2):
        with pytest.raises(LocalknobsError, match="deleted meanwhile"):
            conversation.add("user", "again")
    assert texts(conversation) == ["Hi", "Hello"] and conversation.unsaved == ""
    with pytest.raises(LocalknobsError, match="deleted meanwhile"):
        conversation.grow(conversation.branch()[-1], "more")
    conversation.close()
    assert not conversation.path.exists(), "closing does not bring back a part of it"


def test_a_conversation_that_is_open_in_another_window_is_not_deleted(home):
    program = (
        "import sys\n"
        "from localknobs.conversations import Conversation\n"
        "c = Conversation(); c.add('user', 'Hi'); print(c.path, flush=True)\n"
        "sys.stdin.read(); c.add('user', 'still here')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin and other.stdout
        path = Path(other.stdout.readline().rstrip())
        with pytest.raises(LocalknobsError, match="open in another window") as told:
            delete_conversation(path)
        assert told.value.hint == "Close it there first."
        other.stdin.close()
        assert other.wait() == 0
    assert texts(Conversation(path)) == ["Hi", "still here"]
    delete_conversation(path)
    assert not path.exists()


def test_a_conversation_open_here_can_be_deleted_after_its_close():
    conversation = answered(("Hi", "Hello"))
    with pytest.raises(LocalknobsError, match="open in another window"):
        delete_conversation(conversation.path)
    conversation.close()
    delete_conversation(conversation.path)
    assert not conversation.path.exists()


def test_the_cache_put_aside_for_a_conversation_goes_with_it():
    kept, gone = Conversation(), Conversation()
    for one in (kept, gone):
        one.add("user", "hello")
        one.close()
        parked_cache_file(one.path.stem).parent.mkdir(parents=True, exist_ok=True)
        parked_cache_file(one.path.stem).write_bytes(b"tokens")
    delete_conversation(gone.path)
    assert not parked_cache_file(gone.path.stem).exists()
    assert parked_cache_file(kept.path.stem).exists()


def test_what_cannot_be_deleted_is_told(tmp_path):
    with pytest.raises(LocalknobsError, match="cannot be deleted"):
        delete_conversation(tmp_path)
    assert tmp_path.is_dir()


@pytest.fixture
def full_disk(monkeypatch):
    """Return a switch: from now on a write takes 10 bytes, and the next none."""
    real = os.write
    state = {"full": False, "taken": 0}

    def write(file, data):
        if not state["full"]:
            return real(file, data)
        state["taken"] += 1
        if state["taken"] % 2 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:10])

    monkeypatch.setattr("localknobs.journal.os.write", write)
    return lambda full: state.update(full=full, taken=0)


def test_a_full_disk_is_told_and_loses_nothing_once_there_is_space(full_disk):
    conversation = answered(("Hi", "Hello"))
    full_disk(True)
    with pytest.raises(LocalknobsError, match="cannot be saved: No space left") as told:
        conversation.add("user", "lost")
    assert "Free some space" in told.value.hint
    assert conversation.path.read_bytes().endswith(b"\n"), "the part of the line that fitted is taken back"
    full_disk(False)
    conversation.add("user", "found")
    assert texts(conversation) == ["Hi", "Hello", "found"] == texts(Conversation(conversation.path))


def test_an_answer_on_a_full_disk_is_kept_in_memory(full_disk):
    conversation = Conversation()
    conversation.add("user", "Hi")
    node = conversation.add("assistant", "")
    full_disk(True)
    with pytest.raises(LocalknobsError, match="No space left"):
        conversation.grow(node, "seen by the reader")
    assert texts(conversation) == ["Hi", "seen by the reader"]


def test_what_a_full_disk_refused_of_an_answer_is_written_once_there_is_space(full_disk):
    conversation = Conversation()
    conversation.add("user", "Hi")
    node = conversation.add("assistant", "")
    full_disk(True)
    for write in (
        lambda: conversation.grow(node, "one "),
        lambda: conversation.mark(node, 4, {"temp": 0.2}),
        lambda: conversation.grow(node, "two "),
        lambda: conversation.add("user", "refused"),
    ):
        with pytest.raises(LocalknobsError, match="No space left"):
            write()
    assert Conversation(conversation.path).branch()[-1].text == ""
    full_disk(False)
    conversation.grow(node, "three")
    conversation.finish(node, "end", {"generated_tokens": 3})
    seen = Conversation(conversation.path).branch()[-1]
    assert seen.text == "one two three" == node.text and seen.reason == "end" and seen.marks == [(4, {"temp": 0.2})]
    assert texts(conversation) == ["Hi", "one two three"], "a refused message is not in the conversation"


def test_the_end_of_an_answer_that_was_refused_is_written_with_the_next_message_or_at_the_close(full_disk):
    for next_step in (lambda one: one.add("user", "on"), lambda one: one.close()):
        conversation = Conversation()
        node = conversation.add("assistant", "")
        full_disk(True)
        with pytest.raises(LocalknobsError):
            conversation.grow(node, "all")
        with pytest.raises(LocalknobsError):
            conversation.finish(node, "end")
        full_disk(False)
        next_step(conversation)
        seen = Conversation(conversation.path).nodes[node.id]
        assert (seen.text, seen.reason) == ("all", "end")
        conversation.close()


def test_closing_on_a_full_disk_is_no_error_and_what_waits_is_kept(full_disk):
    conversation = Conversation()
    node = conversation.add("assistant", "")
    full_disk(True)
    with pytest.raises(LocalknobsError):
        conversation.grow(node, "all")
    conversation.close()
    full_disk(False)
    conversation.add("user", "on")
    assert texts(Conversation(conversation.path)) == ["all", "on"]


def test_in_a_home_that_cannot_be_written_a_new_conversation_lives_in_memory(home):
    home.write_text("a file where the folder should be")
    conversation = Conversation(system="Be kind.")
    assert conversation.unsaved == ""
    asked = conversation.add("user", "Hi")
    assert "cannot be saved: Not a directory. Free some space, or check" in conversation.unsaved
    assert "\n" not in conversation.unsaved
    node = conversation.add("assistant", "")
    conversation.grow(node, "Hello")
    conversation.mark(node, 2, {"temp": 0.2})
    conversation.finish(node, "end")
    conversation.instruct("Be brief.")
    conversation.rewind(asked.id)
    conversation.show(node)
    conversation.close()
    assert texts(conversation) == ["Hi", "Hello"] and conversation.unsaved
    assert home.read_text() == "a file where the folder should be"


@pytest.mark.parametrize("way", ["message", "close"])
def test_an_unsaved_conversation_is_saved_whole_once_it_can_be(home, way):
    home.write_text("a file where the folder should be")
    conversation = Conversation(model="built-in", system="Be kind.")
    conversation.add("user", "Hi")
    node = conversation.add("assistant", "")
    conversation.grow(node, "Hello")
    home.unlink()
    conversation.finish(node, "end")
    assert not conversation.path.exists(), "tried again with every message, not with every word"
    if way == "message":
        conversation.add("user", "on")
    else:
        conversation.close()
    assert conversation.unsaved == ""
    seen = Conversation(conversation.path)
    assert texts(seen) == texts(conversation) and seen.nodes[node.id].reason == "end"
    assert (seen.model, seen.system) == ("built-in", "Be kind.")


def test_a_full_disk_at_the_very_first_record_leaves_the_conversation_in_memory(full_disk):
    conversation = Conversation()
    full_disk(True)
    conversation.add("user", "Hi")
    assert "No space left" in conversation.unsaved and saved_conversations() == []
    full_disk(False)
    conversation.add("user", "on")
    assert conversation.unsaved == "" and texts(Conversation(conversation.path)) == ["Hi", "on"]


def test_a_saved_conversation_goes_on_raising(full_disk):
    conversation = answered(("Hi", "Hello"))
    conversation.close()
    again = Conversation(conversation.path)
    full_disk(True)
    for one in (conversation, again):
        with pytest.raises(LocalknobsError, match="No space left"):
            one.add("user", "on")
        assert one.unsaved == "" and texts(one) == ["Hi", "Hello"]
        one.close()


@pytest.mark.parametrize(
    "line",
    [
        '{"message": 9, "parent": 9, "role": "user", "text": "its own parent"}',
        '{"message": 9, "parent": 77, "role": "user", "text": "no parent"}',
        '{"message": 1, "parent": 0, "role": "user", "text": "a number twice"}',
        '{"message": -3, "parent": -5, "role": "user", "text": "below"}',
        '{"message": Infinity, "parent": 0, "role": "user", "text": ""}',
        '{"message": 9, "parent": 0, "role": "robot", "text": "no role"}',
        '{"message": 9}',
        '{"grow": [1], "text": "x"}',
        '{"grow": 99, "text": "x"}',
        '{"show": {}}',
        '{"show": 99}',
        '{"mark": 2, "at": "x", "changes": 7}',
        '{"finished": 99}',
        '{"future": "record"}',
        "[" * 100_000,
        "null",
        "\x00\xff",
    ],
)
def test_damaged_lines_are_left_out(line):
    conversation = answered(("Hi", "Hello"))
    conversation.close()
    with conversation.path.open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    again = Conversation(conversation.path)
    assert texts(again) == ["Hi", "Hello"]
    again.add("user", "on")
    assert texts(Conversation(conversation.path)) == ["Hi", "Hello", "on"]


@pytest.mark.parametrize(
    ("stats", "kept"),
    [
        ('{"threads": 2, "tokens_per_s": 7.5, "model": "tiny"}', {"threads": 2, "tokens_per_s": 7.5, "model": "tiny"}),
        ('{"a": null, "b": [1], "c": {"d": 1}, "e": true, "f": -1}', {"f": -1}),
        ('{"a": NaN, "b": Infinity, "c": -1e999, "d": 1' + "0" * 400 + ', "e": 0}', {"e": 0}),
        ('["no", "mapping"]', {}),
        ("7", {}),
        ("null", {}),
    ],
)
def test_counts_from_a_file_are_plain_numbers_and_texts(stats, kept):
    conversation = answered(("Hi", "Hello"))
    conversation.close()
    with conversation.path.open("a") as file:
        file.write(f'{{"finished": 2, "reason": "length", "stats": {stats}}}\n')
    seen = Conversation(conversation.path).branch()[-1]
    assert seen.stats == kept and seen.reason == "length"


def test_what_is_no_conversation_is_refused_and_not_listed():
    answered(("Hi", "Hello")).close()
    other = conversations_folder() / "notes.jsonl"
    other.write_text(json.dumps({"note": "mine"}) + "\n")
    with pytest.raises(BadFile, match="not a saved conversation"):
        Conversation(other)
    with pytest.raises(NotFound):
        Conversation(conversations_folder() / "none.jsonl")
    assert [entry.title for entry in saved_conversations()] == ["Hi"]


def test_the_list_is_newest_first_with_titles_that_fit():
    old, _ = answered(("one " * 40, "x")), answered(("  My \n  title ", "y"))
    os.utime(old.path, (1, 1))
    assert [entry.title for entry in saved_conversations()] == ["My title", ("one " * 40)[:59].rstrip() + "…"]


def test_plain_text_holds_every_message():
    assert plain_text(answered(("Hi", "Hello")).branch()) == "**user**\n\nHi\n\n**assistant**\n\nHello\n"
