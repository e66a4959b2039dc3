"""A training ends in an adapter that peft and llama.cpp load; a stopped or killed one goes on to the same end."""

import json

import pytest
from tiny_training import make_base, tiny_config

from localknobs.convert.adapter import open_adapter
from localknobs.errors import BadFile, BadValue, MissingExtra, NotEnough, NotFound
from localknobs.gguf_info import read_header
from localknobs.jobs import Measured, Noted, drain
from localknobs.tune.finetune import CARD, finetune, look_at_data
from localknobs.tune.plan import STATE, plan_finetune


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def train(config):
    events = []
    result = drain(finetune(plan_finetune(config)), events.append)
    return result, events


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return train(tiny_config(base, folder, general=base / "tokenizer_config.json"))


def test_a_training_makes_an_adapter_for_peft_and_for_llama_cpp(whole):
    result, events = whole
    assert result.after["held_out"] < 0.97 * result.before["held_out"]
    assert set(result.after) == {"held_out", "general", "next_token", "right"}
    steps = [event for event in events if isinstance(event, Measured) and event.name == "loss"]
    assert [event.step for event in steps] == list(range(1, result.steps + 1))
    assert [event.value for event in steps] == result.losses
    adapter = open_adapter(result.folder)
    assert len(adapter.pairs) == 14 and {pair.rank for pair in adapter.pairs} == {4}
    header = read_header(result.gguf)
    assert header.text("adapter.type") == "lora" and len(header.tensors) == 28
    card = json.loads((result.folder / CARD).read_text())
    assert card["before"] == result.before and card["knobs"]["lora_r"] == 4
    assert not list(result.folder.parent.glob(".*")), "nothing is left beside it"


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_end(base, whole, tmp_path):
    config = tiny_config(base, tmp_path, general=base / "tokenizer_config.json")
    job = finetune(plan_finetune(config))
    for event in job:
        if isinstance(event, Measured) and event.name == "loss" and event.step == 7:
            break
    job.close()
    assert not config.output.exists() and (tmp_path / ".adapter.training" / STATE).is_file()
    result, events = train(config)
    assert any(isinstance(event, Noted) and "Taken up after step" in event.text for event in events)
    assert result.losses == pytest.approx(whole[0].losses, abs=1e-3)
    assert result.after["held_out"] == pytest.approx(whole[0].after["held_out"], abs=1e-3)


def test_a_killed_training_goes_on_to_the_same_end(base, whole, tmp_path, monkeypatch):
    import localknobs.tune.finetune as module

    started = []
    real = module.WorkerProcess
    monkeypatch.setattr(module, "WorkerProcess", lambda command: started.append(real(command)) or started[-1])
    config = tiny_config(base, tmp_path, general=base / "tokenizer_config.json")
    with pytest.raises(module.LocalknobsError, match="SIGKILL") as raised:
        for event in finetune(plan_finetune(config)):
            if isinstance(event, Measured) and event.name == "loss" and event.step == 9:
                started[-1].process.kill()
    assert "goes on from the last state" in raised.value.hint
    result, _ = train(config)
    assert result.losses == pytest.approx(whole[0].losses, abs=1e-3)


@pytest.mark.slow
def test_a_state_of_another_training_is_refused(base, tmp_path):
    config = tiny_config(base, tmp_path)
    job = finetune(plan_finetune(config))
    for event in job:
        if isinstance(event, Measured) and event.name == "loss" and event.step == 3:
            break
    job.close()
    other = tiny_config(base, tmp_path, knobs={"learning_rate": 0.01})
    with pytest.raises(BadFile, match="of other data, base or knobs"):
        train(other)
    result, _ = train(tiny_config(base, tmp_path, knobs={"learning_rate": 0.01, "max_steps": 2}, restart=True))
    assert result.steps == 2


@pytest.mark.slow
def test_early_stop_keeps_the_best_adapter(base, tmp_path):
    config = tiny_config(base, tmp_path, knobs={"learning_rate": 0.3, "epochs": 30.0, "patience": 1})
    result, events = train(config)
    assert any(isinstance(event, Noted) and "stopped early" in event.text for event in events)
    looks = dict(result.looks)
    assert looks[result.best_step]["held_out"] == min(look["held_out"] for look in looks.values())
    assert result.after["held_out"] == pytest.approx(looks[result.best_step]["held_out"], abs=1e-4)


def test_the_data_is_shown_as_the_model_sees_it(base, tmp_path):
    result = drain(look_at_data(plan_finetune(tiny_config(base, tmp_path))))
    learned = "".join(text for text, counts in result.data["shown"] if counts)
    rest = "".join(text for text, counts in result.data["shown"] if not counts)
    assert learned.startswith("it is ") and learned.endswith("<|im_end|>")
    assert rest.startswith("<|startoftext|><|im_start|>user\nsay ")
    cut = drain(look_at_data(plan_finetune(tiny_config(base, tmp_path, knobs={"seq_length": 12}))))
    assert cut.data["cut"] == 24 and cut.data["longest"] > 12


@pytest.mark.slow
def test_texts_are_learned_whole_and_cut_into_pieces(base, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("The model reads a book of many words. " * 60)
    config = tiny_config(base, tmp_path, data=book, knobs={"held_out_share": 0.0, "max_steps": 2})
    result, events = train(config)
    assert result.data["learn"] > 5 and result.data["longest"] == 64
    assert any(isinstance(event, Noted) and "No example is held out" in event.text for event in events)
    assert result.steps == 2 and result.folder.is_dir()


def test_what_cannot_be_trained_is_refused_before_any_work(base, tmp_path, monkeypatch):
    with pytest.raises(BadValue, match="no module 'q_prj'") as raised:
        plan_finetune(tiny_config(base, tmp_path, knobs={"lora_targets": "q_prj"}))
    assert "Did you mean q_proj?" in raised.value.hint and "down_proj, gate_proj" in raised.value.hint
    with pytest.raises(NotFound):
        plan_finetune(tiny_config(tmp_path / "none", tmp_path))
    with pytest.raises(BadValue, match="longer than the model's 128"):
        plan_finetune(tiny_config(base, tmp_path, knobs={"seq_length": 256}))
    with pytest.raises(BadValue, match="no name for a folder"):
        plan_finetune(tiny_config(base, tmp_path, output=tmp_path / "a.gguf"))
    with pytest.raises(BadValue, match="exists"):
        plan_finetune(tiny_config(base, tmp_path, output=tmp_path))
    monkeypatch.setattr("localknobs.tune.plan.graphics_cards", list)
    monkeypatch.setattr("localknobs.tune.plan.available_memory_bytes", lambda: 2**20)
    with pytest.raises(NotEnough, match="of memory is there"):
        plan_finetune(tiny_config(base, tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="torch, transformers, peft"):
        plan_finetune(tiny_config(base, tmp_path))


@pytest.mark.parametrize(
    ("wanted", "names", "weights"),
    [
        ("attention", ("k_proj", "o_proj", "q_proj", "v_proj"), 8),
        ("mlp", ("down_proj", "gate_proj", "up_proj"), 6),
        ("q_proj, v_proj", ("q_proj", "v_proj"), 4),
    ],
)
def test_modules_by_group_and_by_name(base, tmp_path, wanted, names, weights):
    plan = plan_finetune(tiny_config(base, tmp_path, knobs={"lora_targets": wanted}))
    assert plan.modules.names == names and len(plan.modules.shapes) == weights and plan.modules.layers == 2
