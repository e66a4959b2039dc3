"""One answer: `localknobs chat -p`, pipes, JSON, notes, and what is refused."""

import json
import os
import signal
import subprocess

import pytest
from program import DEADLINE_S, PROGRAM
from random_model import TURN_END, byte_tokens, write_random_model, write_scripted_model, written_tokens

QUICK = ("-t", "1", "-n", "12")


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """Return a model that always answers `hello`... spelt without a letter that comes twice."""
    folder = tmp_path_factory.mktemp("scripted")
    return write_scripted_model(folder / "scripted.gguf", [*written_tokens(b"salve mundi"), TURN_END], context=256)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Return a model that never ends its answer by itself."""
    folder = tmp_path_factory.mktemp("endless")
    return write_scripted_model(folder / "endless.gguf", written_tokens(b"abc \na"), context=256)


def test_the_answer_is_all_that_standard_output_gets(run, echo):
    done = run("chat", echo, "-p", "Hello", "-t", "1", "--stats")
    assert (done.returncode, done.stdout) == (0, "salve mundi\n")
    assert "tokens/s" in done.stderr and "1 thread ·" in done.stderr


def test_the_built_in_model_answers_the_same_twice_at_temperature_0(run):
    first, second = (run("chat", "-p", "What is a token?", "--preset", "deterministic", *QUICK) for _ in range(2))
    assert first.returncode == second.returncode == 0
    assert first.stdout.strip() and first.stdout == second.stdout


def test_a_seed_repeats_a_drawn_answer(run):
    def answer(seed):
        return run("chat", "-p", "Tell me a story.", "--temp", "3", "--top-k", "0", "--seed", seed, *QUICK).stdout

    assert answer("7") == answer("7") != answer("8")


def test_drafts_change_the_speed_and_not_the_answer(run, endless):
    words = ("chat", endless, "-p", "abc abc abc", "-t", "1", "--temp", "0", "-n", "60")
    plain = run(*words, "--stats")
    assert "guessed" not in plain.stderr
    drafted = run(*words, "--draft", "ngram", "--stats")
    assert drafted.stdout == plain.stdout
    assert "guessed tokens accepted (" in drafted.stderr and "by ngram" in drafted.stderr
    named = json.loads(run(*words, "-md", endless, "--draft-max", "4", "--json").stdout)
    assert named["answer"] == plain.stdout.removesuffix("\n")
    by_model = json.loads(run(*words, "-md", endless, "--draft", "model", "--json").stdout)["stats"]
    assert by_model["drafted_by"] == ["model"] and by_model["accepted_tokens"] > 10


def test_a_draft_that_cannot_be_is_one_line_with_the_reason(run, endless, tmp_path):
    other = write_random_model(tmp_path / "other.gguf", fillers=300)
    words = ("chat", endless, "-p", "x", "-t", "1")
    for more, code, complaint in (
        (("-md", other), 3, "other.gguf cannot draft for this model: it has 561 tokens, and the model 261"),
        (("-md", tmp_path / "none.gguf"), 3, "There is no"),
        (("--draft", "model"), 2, "needs a draft model"),
        (("--draft", "sometimes"), 2, "one of none, ngram, model, auto"),
        (("--draft-max", "0"), 2, "draft_max (--draft-max) cannot be 0"),
    ):
        done = run(*words, *more)
        assert done.returncode == code and complaint in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_standard_input_is_the_prompt_or_is_added_to_it(run, echo):
    def prompt_tokens(*arguments, stdin=""):
        return json.loads(run("chat", echo, "--json", "-t", "1", *arguments, stdin=stdin).stdout)["stats"][
            "prompt_tokens"
        ]

    alone, added = prompt_tokens(stdin="abc\n"), prompt_tokens("-p", "Sum:", stdin="\nabc\n\n")
    assert added == alone + len("Sum:\n")
    assert prompt_tokens("-p", "abc") == alone
    assert prompt_tokens("--raw", stdin="abcd\n\n") == 1 + len("abcd\n"), "raw text is taken as it is"


def test_json_is_one_document_with_everything_that_made_the_answer(run, echo):
    done = run("chat", echo, "-p", "Hello", "--json", "-t", "1", "--temp", "0.5", "--seed", "3")
    answer = json.loads(done.stdout)
    assert answer["answer"] == "salve mundi" and answer["finish_reason"] == "end"
    assert answer["sampler"]["temp"] == 0.5 and answer["preset"] == "default" and answer["stats"]["seed"] == 3
    assert answer["stats"]["generated_tokens"] == len("salve mundi") and answer["stats"]["threads"] == 1


@pytest.mark.parametrize(
    ("flags", "reason", "says"),
    [(("-n", "5"), "length", "limit of 5 tokens"), ((), "context", "context of 256 tokens is full")],
)
def test_an_answer_that_breaks_off_says_why(run, endless, flags, reason, says):
    done = run("chat", endless, "-p", "x", "-t", "1", *flags)
    assert done.returncode == 0 and says in done.stderr
    assert json.loads(run("chat", endless, "-p", "x", "-t", "1", "--json", *flags).stdout)["finish_reason"] == reason


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("-p", ""), "", "The prompt is empty"),
        (("-p", "  "), "", "The prompt is empty"),
        ((), "", "Standard input is empty"),
        ((), " \n\n", "Standard input is empty"),
        (("--json",), "", "Standard input is empty"),
        ((), b"\xff\xfe\x00", "UTF-8"),
        (("--raw", "-s", "x", "-p", "y"), "", "--raw"),
    ],
)
def test_no_prompt_is_a_usage_slip(run, arguments, stdin, says):
    done = run("chat", *arguments, stdin=stdin)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line


def test_closed_streams_do_no_harm(echo):
    command = f"{PROGRAM} chat {echo} -p Hi -t 1"
    shell = ["sh", "-c", f"{command} <&-; {command} >&- ; echo $?; {command} 2>&-"]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stdout == "salve mundi\n0\nsalve mundi\n" and done.stderr == ""


def test_the_answer_comes_in_any_locale(run, tmp_path):
    model = write_scripted_model(tmp_path / "m.gguf", [*written_tokens("é!".encode()), TURN_END])
    assert run("chat", model, "-p", "x", "-t", "1", PYTHONIOENCODING="ascii").stdout == "?!\n"
    assert run("chat", model, "-p", "x", "-t", "1", LC_ALL="C.UTF-8").stdout == "é!\n"


def test_ctrl_c_ends_it_with_130_and_keeps_what_was_written(tmp_path):
    model = write_scripted_model(tmp_path / "long.gguf", written_tokens(b"abc \na"), context=131_072)
    with subprocess.Popen(
        [PROGRAM, "chat", model, "-p", "x", "-t", "1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.read(8) == b"abc \nabc"
        os.kill(process.pid, signal.SIGINT)
        rest, complaint = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert rest.endswith(b"\n") and b"The answer was stopped" in complaint and b"Traceback" not in complaint


def test_ctrl_c_while_a_long_prompt_is_read(terminal, tmp_path):
    model = write_random_model(
        tmp_path / "slow.gguf", width=512, feed_forward=1024, heads=4, kv_heads=2, context=65_536
    )
    screen = terminal("chat", model, "-p", "x" * 60_000, "-t", "1")
    screen.wait_for("reading the prompt")
    screen.type("\x03")
    assert screen.ends() == 130
    assert "The answer was stopped" in screen.text and "Traceback" not in screen.text


def test_a_reader_that_leaves_is_no_error(tmp_path):
    model = write_scripted_model(tmp_path / "long.gguf", written_tokens(b"abc \na"), context=16_384)
    shell = f"{PROGRAM} chat {model} -p x -t 1 | head -c 3; {PROGRAM} --help | true; {PROGRAM} chat --help | true"
    shell += f"; {PROGRAM} knobs --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stdout == "abc{" and done.stderr == ""


def test_an_answer_cannot_steer_the_terminal(terminal, tmp_path):
    model = write_scripted_model(tmp_path / "m.gguf", [*written_tokens(b"a\x1b[2Jb"), TURN_END])
    screen = terminal("chat", model, "-p", "x", "-t", "1")
    assert screen.ends() == 0 and "a\\x1b[2Jb" in screen.text


def test_words_are_not_broken_at_the_edge_of_the_terminal(terminal, tmp_path):
    words = [f"word{number:04}" for number in range(60)]
    pieces = [f"\u2581{word}" for word in words]
    first = len(byte_tokens("")) + 5 + 256
    model = write_scripted_model(tmp_path / "m.gguf", [*range(first, first + len(words)), TURN_END], fillers=pieces)
    screen = terminal("chat", model, "-p", "x", "-t", "1", columns=50)
    assert screen.ends() == 0
    assert screen.text.split() == words, "no word is cut in two"
    piped = subprocess.run([PROGRAM, "chat", model, "-p", "x", "-t", "1"], input="", capture_output=True, text=True)
    assert piped.stdout.count("\n") == 1, "nothing is wrapped in a pipe"


def test_a_text_typed_without_quotes_or_p_says_what_to_do(run):
    extra = run("chat", "what", "is", "a token")
    assert extra.returncode == 2 and "one word too many: is" in extra.stderr
    as_model = run("chat", "what is a token", stdin="x")
    assert as_model.returncode == 3 and "-p" in as_model.stderr
