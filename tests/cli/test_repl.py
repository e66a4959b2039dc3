"""The conversation of `localknobs chat`, in a pseudo-terminal with the real program."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from program import PROGRAM
from random_model import TURN_END, write_scripted_model, written_tokens

from localknobs.conversations import Conversation, saved_conversations


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return two models by name: one answers `salve mundi`, one never ends."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "short": write_scripted_model(folder / "short.gguf", [*written_tokens(b"salve mundi"), TURN_END], context=2048),
        "endless": write_scripted_model(folder / "endless.gguf", written_tokens(b"abc \na"), context=131_072),
        "narrow": write_scripted_model(folder / "narrow.gguf", [*written_tokens(b"ok"), TURN_END], context=256),
    }


@pytest.fixture
def chat(terminal, models):
    """Open a conversation with one of the models."""

    def chat(name="short", *flags, **environment):
        screen = terminal("chat", models[name], "-t", "1", *flags, **environment)
        screen.wait_for("Type a message")
        return screen

    return chat


def say(screen, line, answer):
    """Send a line and wait for an answer and the next prompt; return what stands on the screen after the line.

    Where the screen breaks lines does not matter.
    """
    # A long line, as of a file in a deep folder, wraps anywhere.
    typed = re.compile("\n?".join(map(re.escape, f"> {line}")) + "\n")
    before = len(typed.findall(screen.text))
    wanted = "".join(answer.split())

    def came(text: str) -> bool:
        return len(typed.findall(text)) > before and wanted in "".join(typed.split(text)[-1].split())

    screen.enter(line)
    screen.wait_for(came)
    screen.wait_for_prompt()
    return typed.split(screen.text)[-1]


def workers(process: int) -> list[int]:
    """Return the child processes of the program."""
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_message_is_answered_and_saved_as_markdown_once(chat, tmp_path):
    screen = chat()
    assert say(screen, "Hello", "salve mundi").split("\n")[0] == "salve mundi"
    say(screen, f"/save {tmp_path}/c.md", "written to")
    say(screen, f"/save {tmp_path}/c.md", "exists already")
    assert (tmp_path / "c.md").read_text() == "**user**\n\nHello\n\n**assistant**\n\nsalve mundi\n"
    screen.enter("/bye")
    assert screen.ends() == 0


def test_ctrl_c_stops_the_answer_and_the_conversation_goes_on(chat):
    screen = chat("endless")
    screen.enter("Hello")
    screen.wait_for("abc\nabc\nabc")
    screen.type("\x03")
    screen.wait_for("(The answer was stopped)")
    assert "Traceback" not in screen.text
    screen.enter("/set n_predict 8")
    assert "limit of 8 tokens" in say(screen, "/regen", "limit of")
    screen.wait_for_prompt()
    screen.type("\x04")
    assert screen.ends() == 0


def test_an_impatient_ctrl_c_loses_nothing(chat):
    screen = chat("endless")
    screen.enter("Hello")
    screen.wait_for("abc\nabc")
    screen.type("\x03\x03\x03")
    screen.wait_for("(The answer was stopped)")
    screen.enter("/set n_predict 5")
    say(screen, "and now", "limit of 5 tokens")


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_ctrl_d_leaves(chat):
    screen = chat()
    screen.wait_for_prompt()
    screen.type("half a mess\x03")
    screen.wait_for("(Ctrl+D or /bye leaves)")
    screen.wait_for_prompt()
    screen.type("\x04")
    assert screen.ends() == 0


def test_what_was_typed_comes_back_with_the_up_key_in_the_next_session(chat, home):
    first = chat()
    say(first, "remember me", "salve")
    first.enter("/bye")
    assert first.ends() == 0
    assert (home / "data" / "chat_history").stat().st_mode & 0o077 == 0, "nobody else's business"
    second = chat()
    second.wait_for_prompt()
    second.type("\x1b[A\x1b[A")
    second.wait_for("> remember me")


def test_ctrl_j_makes_a_message_of_several_lines(chat, tmp_path):
    screen = chat()
    screen.wait_for_prompt()
    screen.type("one\ntwo\r")
    screen.wait_for("salve mundi")
    say(screen, f"/save {tmp_path}/c.md", "written to")
    assert "one\ntwo" in (tmp_path / "c.md").read_text()


def test_knobs_are_turned_shown_and_reset(chat):
    screen = chat("short", "--temp", "0.4")
    assert "temp = 0.2" in say(screen, "/set temp 0.2", "0 to 5")
    assert "temp  0.2" in say(screen, "/knobs", "preset default")
    assert "temp = 0.8" in say(screen, "/set temp default", "0 to 5")
    assert "cannot be 9. It takes 0 to 5" in say(screen, "/set temp 9", "It takes").replace("\n", " ")
    assert "Near names: temp" in say(screen, "/set tmep 1", "Near")
    assert "Start again with -c" in say(screen, "/set n_ctx 512", "Start again")
    assert "/set temp 0.2" in say(screen, "/set", "For example")
    assert 'grammar = root ::= "x"' in say(screen, '/set grammar root ::= "x"', "grammar =")
    assert say(screen, "Hello", "x").split() == ["x", ">"], "the grammar holds"
    assert "0 = auto" in say(screen, "/set threads", "threads = 1 ")
    say(screen, "/set threads default", "threads = 0, from the next answer on")
    say(screen, "/set threads 1", "threads = 1, from the next answer on")
    say(screen, "/set draft ngram", "draft = ngram, from the next answer on")
    assert "-md FILE" in say(screen, "/set draft model", "needs a draft model").replace("\n", " ")
    assert "draft = ngram" in say(screen, "/set draft", "none, ngram, model, auto")


def test_presets_are_listed_used_and_saved(chat, home):
    screen = chat()
    assert "* default" in say(screen, "/preset", "brainstorm")
    assert "Did you mean deterministic?" in say(screen, "/preset determ", "There is no preset")
    say(screen, "/preset deterministic", "Always the likeliest")
    say(screen, "/set top_k 7", "top_k = 7")
    say(screen, "/preset save mine", "saved as the preset mine")
    assert "top_k = 7" in (home / "config" / "presets" / "mine.toml").read_text()
    assert "* mine" in say(screen, "/preset", "brainstorm")


def test_a_conversation_is_found_again_and_another_model_is_named(chat):
    first = chat()
    say(first, "Hello there", "salve mundi")
    first.enter("/bye")
    assert first.ends() == 0
    second = chat("narrow")
    assert "1  Hello there" in say(second, "/load", "goes on with one")
    loaded = say(second, "/load 1", "goes on with it")
    assert "salve mundi" in loaded and "short.gguf" in loaded.replace("\n", "")
    say(second, "more", "ok")
    assert "There is no conversation 7" in say(second, "/load 7", "/load lists them")
    say(second, "/clear", "new conversation")
    assert "There is no answer yet" in say(second, "/regen", "Write a message first")


def test_more_conversations_than_are_listed_are_counted_and_can_be_loaded(chat):
    for number in range(22):
        conversation = Conversation()
        conversation.add("user", f"question {number}")
        conversation.close()
        os.utime(conversation.path, (1000 - number, 1000 - number))
    screen = chat()
    listed = say(screen, "/load", "The latest 20 of 22. /load NUMBER goes on with one.")
    assert "20  question 19 " in listed and "question 20" not in listed
    say(screen, "/load 22", "> question 21")
    assert "There is no conversation 23" in say(screen, "/load 23", "/load lists them")


def test_an_answer_is_kept_with_its_model_and_counts(chat):
    screen = chat()
    say(screen, "Hello", "salve mundi")
    screen.enter("/bye")
    assert screen.ends() == 0
    (entry,) = saved_conversations()
    stats = Conversation(entry.path).branch()[-1].stats
    assert Path(stats["model"]).name == "short.gguf" and stats["generated_tokens"] == 11 and stats["threads"] == 1


def test_a_home_that_cannot_be_written_is_told_once_and_the_chat_goes_on(chat, home):
    home.write_text("a file where the folder should be")
    screen = chat()
    assert "Not a directory" in say(screen, "Hello", "salve mundi")
    assert say(screen, "again", "salve mundi").split() == ["salve", "mundi", ">"]
    say(screen, "/clear", "new conversation")
    assert say(screen, "and anew", "salve mundi").split() == ["salve", "mundi", ">"]
    screen.enter("/bye")
    assert screen.ends() == 0
    assert "Traceback" not in screen.text and screen.text.count("goes on unsaved") == 1


def test_an_unknown_command_names_the_near_one_and_a_space_sends_it_as_a_message(chat):
    screen = chat()
    assert "Did you mean /regen?" in say(screen, "/regn", "There is no command")
    say(screen, " /etc/hosts", "salve mundi")
    help_shown = say(screen, "/help", "Ctrl+C stops an answer")
    assert all(
        name in help_shown for name in ("/set", "/preset", "/regen", "/save", "/load", "/clear", "/stats", "/bye")
    )


def test_counts_are_shown_when_asked_for(chat):
    screen = chat()
    say(screen, "/stats", "counts are shown after each answer")
    assert "11 tokens at" in say(screen, "Hello", "context")
    say(screen, "/stats", "not shown any more")


def test_a_message_that_does_not_fit_is_refused_and_taken_out(chat):
    screen = chat("narrow")
    screen.enter("x" * 300)
    screen.wait_for("Enter to stop here")
    screen.type("\r")
    screen.wait_for("/clear begins a new conversation.")
    say(screen, "short", "ok")


def test_a_killed_engine_starts_again_with_the_next_message(chat):
    screen = chat("endless")
    screen.enter("Hello")
    screen.wait_for("abc\nabc")
    for pid in workers(screen.process.pid):
        os.kill(pid, signal.SIGKILL)
    screen.wait_for("starts the engine again")
    screen.enter("/set n_predict 5")
    say(screen, "again", "limit of 5 tokens")


def test_it_works_without_a_cursor(chat):
    screen = chat("short", TERM="dumb")
    assert "salve mundi" in say(screen, "Hello", "salve mundi")
    screen.enter("/bye")
    assert screen.ends() == 0


def test_leaving_leaves_no_process_behind(chat):
    screen = chat()
    say(screen, "Hello", "salve")
    children = workers(screen.process.pid)
    assert children
    screen.enter("/bye")
    assert screen.ends() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_conversation_into_a_file_is_refused(models, tmp_path):
    command = f"{PROGRAM} chat {shlex.quote(str(models['short']))} > {tmp_path}/out"
    done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, input="")
    assert done.returncode == 2 and "needs a terminal to write to" in done.stdout


def test_a_full_context_is_asked_about_once_and_the_answer_goes_on(terminal, models):
    screen = terminal("chat", models["endless"], "-t", "1", "-c", "256", "-n", "600")
    screen.wait_for("Type a message")
    screen.enter("Hello")
    screen.wait_for("Enter to stop here")
    screen.type("2\r")
    screen.wait_for("context_full = sinks")
    screen.wait_for_prompt()
    assert "is dropped" in " ".join(screen.text.split()) and "limit of 600" in " ".join(screen.text.split())
    (saved,) = saved_conversations()
    (_, answer) = Conversation(saved.path).branch()
    assert len(answer.text) > 600


def test_a_chat_is_continued_where_it_was_left_without_reading_it_again(terminal, models):
    flags = ("-t", "1", "--park-cache", "disk", "--stats")
    screen = terminal("chat", models["short"], *flags)
    screen.wait_for("Type a message")
    for turn in range(3):
        say(screen, f"Hello {turn}", "salve mundi")
    screen.enter("/bye")
    assert screen.ends() == 0
    screen = terminal("chat", models["short"], "--continue", *flags)
    screen.wait_for("Hello 2")
    screen.wait_for_prompt()
    shown = say(screen, "Again", "salve mundi")
    reused = int(re.search(r"\(([\d,]+) reused", " ".join(shown.split()))[1].replace(",", ""))
    assert reused > 100
