"""`--lora` and `--control-vector` of the verbs, and `/lora` in a conversation, with the real program."""

import json

import pytest
from made_adapters import write_adapter, write_control_vector
from random_model import write_random_model

from localknobs.conversations import Conversation, saved_conversations
from localknobs.paths import built_in_model

QUESTION = ("-p", "What is a token?", "-t", "1", "-n", "8", "--temp", "0", "--json")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "one": write_adapter(folder / "one.gguf", built_in_model(), strength=0.3),
        "two": write_adapter(folder / "two.gguf", built_in_model(), seed=2, strength=0.3, says_base=False),
        "vector": write_control_vector(folder / "vector.gguf", built_in_model(), strength=3.0),
        "other": write_adapter(folder / "other.gguf", write_random_model(folder / "model.gguf")),
    }


def test_adapters_change_the_answer_and_0_does_not(run, files):
    def answer(*flags):
        return json.loads(run("chat", *QUESTION, *map(str, flags)).stdout)

    base = answer()
    assert base["adapters"] == []
    resting = answer("--lora", f"{files['one']}:0", "--control-vector-scaled", f"{files['vector']}:0")
    assert resting["answer"] == base["answer"] and resting["adapters"] == []
    one = answer("--lora", files["one"])
    both = answer("--lora", files["one"], "--lora", f"{files['two']}:-0.5")
    steered = answer("--control-vector", files["vector"], "--control-vector-layer-range", 1, 3)
    assert len({found["answer"] for found in (base, one, both, steered)}) == 4
    assert both["adapters"] == [f"{files['one']}:1", f"{files['two']}:-0.5"]


def test_sample_and_determinism_take_them_too(run, files):
    words = ("-p", "Hello", "-t", "1", "--json", "--lora", files["one"])
    plain = json.loads(run("sample", *words[:-2]).stdout)
    assert json.loads(run("sample", *words).stdout)["entropy_bits"] != plain["entropy_bits"]
    assert json.loads(run("determinism", *words, "-n", "4", "--runs", "2").stdout)["trials"]


def test_show_tells_what_a_control_vector_is_for(run, files):
    shown = run("show", files["vector"]).stdout
    assert "control vector" in shown and "5, for the layers 1 to 5" in shown and "256" in shown


def test_what_the_user_should_know_is_a_note(run, files):
    done = run("chat", *QUESTION, "--lora", files["two"])
    assert done.returncode == 0 and "two.gguf does not say on which model it was trained" in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--lora", "nowhere.gguf"), 3, "nowhere.gguf"),
        (("--lora", "{other}"), 3, "in built-in.gguf it is 256 x 128"),
        (("--lora", "{vector}"), 3, "--control-vector"),
        (("--lora", "{one}:inf"), 2, "inf"),
        (("--control-vector", "{vector}", "--control-vector-layer-range", "0", "1"), 2, "0 1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(run, files, flags, code, says):
    done = run("chat", *QUESTION, *(flag.format(**files) for flag in flags))
    assert done.returncode == code and says in " ".join(done.stderr.split()) and not done.stdout


def test_a_folder_that_finetune_wrote_is_named_by_itself(run, files, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.gguf").write_bytes(files["one"].read_bytes())
    (folder / "adapter_config.json").write_text("{}")
    found = json.loads(run("chat", *QUESTION, "--lora", f"{folder}:0.5").stdout)
    assert found["adapters"] == [f"{folder}:0.5"]


def test_a_conversation_adds_scales_silences_and_removes_them(terminal, files):
    screen = terminal("chat", "built-in", "-t", "1", "-n", "4", columns=200)
    screen.wait_for("Type a message")

    def enter(line, says):
        screen.enter(line)
        screen.wait_for(lambda text: says in text.rpartition(f"> {line}")[2])
        screen.wait_for_prompt()

    enter("/lora", "no adapters")
    enter(f"/lora add {files['one']}", "from the next answer on")
    enter(f"/control-vector add {files['vector']}:0.5", "(control vector)")
    enter("Hello", "limit of 4")
    enter("/lora scale 1 -0.5", "scale -0.5")
    enter("/lora off", "the base answers")
    enter("Hello again", "limit of 4")
    enter("/lora on", "from the next answer on")
    enter("/lora remove 1", "from the next answer on")
    enter("And now?", "limit of 4")
    enter("/lora remove 7", "There is no adapter 7")
    enter("/lora scale 1 much", "A scale cannot be much")
    enter("/lora add nowhere.gguf", "nowhere.gguf")
    enter("/lora turn 1", "After it comes")
    screen.enter("/bye")
    assert screen.ends() == 0
    (saved,) = saved_conversations()
    answers = [node for node in Conversation(saved.path).branch() if node.role == "assistant"]
    one, vector = f"{files['one']}:1", f"{files['vector']}:0.5"
    assert [node.stats["adapters"] for node in answers] == [[one, vector], [], [vector]]
