"""A training ends in an adapter that peft and llama.cpp load; a stopped or killed one goes on to the same end."""

import itertools
import json
import random

import pytest
from repository import REPOSITORY
from tiny_training import make_base, tiny_config

from localknobs.convert.adapter import open_adapter
from localknobs.errors import BadFile, BadValue, LocalknobsError, MissingExtra, NotEnough, NotFound
from localknobs.gguf_info import read_header
from localknobs.jobs import Measured, Noted, drain
from localknobs.tune.curves import curves_file, read_curves
from localknobs.tune.encode import Encoded
from localknobs.tune.examples import shipped_examples
from localknobs.tune.finetune import CARD, finetune, look_at_data
from localknobs.tune.losses import endless, rate_at
from localknobs.tune.plan import STATE, plan_finetune
from localknobs.tune.price import price


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
    return train(tiny_config(base, folder, general=shipped_examples("flags", "-general")))


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
    config = tiny_config(base, tmp_path, general=shipped_examples("flags", "-general"))
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
    config = tiny_config(base, tmp_path, general=shipped_examples("flags", "-general"))
    with pytest.raises(module.LocalknobsError, match="SIGKILL") as raised:
        for event in finetune(plan_finetune(config)):
            if isinstance(event, Measured) and event.name == "loss" and event.step == 9:
                started[-1].process.kill()
    assert "goes on from the last state" in raised.value.hint
    stopped = read_curves(curves_file(config.output))
    assert 9 <= stopped.step < stopped.steps == whole[0].data["steps"] and stopped.samples[0].step == 0
    assert (tmp_path / "adapter.curves.svg").is_file()
    result, _ = train(config)
    assert result.losses == pytest.approx(whole[0].losses, abs=1e-3)
    curves = read_curves(curves_file(config.output))
    assert [step for step, _ in curves.loss] == list(range(1, result.steps + 1)), "one curve without a seam"
    assert [loss for _, loss in curves.loss] == pytest.approx(result.losses)
    uninterrupted = read_curves(curves_file(whole[0].folder))
    assert [step for step, _ in curves.held_out] == [step for step, _ in uninterrupted.held_out]
    assert curves.kept == result.best_step


def test_fixed_prompts_are_answered_every_so_many_steps(base, tmp_path):
    asked = ("say 3", "who are you?")
    knobs = {"sample_steps": 2, "eval_steps": 4, "max_steps": 6, "held_out_share": 0.0}
    result, events = train(tiny_config(base, tmp_path, samples=asked, knobs=knobs))
    samples = read_curves(curves_file(result.folder)).samples
    assert [(one.step, one.prompt) for one in samples] == [(step, text) for step in (0, 2, 4, 6) for text in asked]
    assert result.sample == samples[-2].answer
    notes = [event.text for event in events if isinstance(event, Noted)]
    assert sum('"who are you?" is answered' in text for text in notes) == 4


@pytest.mark.slow
def test_overfitting_is_named_while_it_runs(tmp_path):
    chance = random.Random(1)
    words = "red blue green cold warm old new big small".split()
    learned_by_heart = [
        {"prompt": f"say {number}", "completion": " ".join(chance.choices(words, k=4))} for number in range(24)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in learned_by_heart))
    knobs = {
        "lora_r": 16, "learning_rate": 0.005, "epochs": 15.0, "patience": 0, "eval_steps": 10, "lora_dropout": 0.0,
        "held_out_share": 0.3,
    }  # fmt: skip
    base = REPOSITORY / "models" / "checkpoint"
    result, events = train(tiny_config(base, tmp_path, data=data, knobs=knobs))
    notes = [event.text for event in events if isinstance(event, Noted)]
    assert any(sign.startswith("Overfitting") for sign in result.signs)
    assert sum(text.startswith("Overfitting") for text in notes) == 1, "each sign is named once"
    assert not notes[-1].startswith("Overfitting"), "and when it is seen"
    assert result.after["held_out"] < result.looks[-1][1]["held_out"], "the best adapter is kept"


def trainee_order(base, tmp_path, **changes):
    """Return a trainee, and the order of a training of it in this process."""
    from localknobs.tune.finetune import _order
    from localknobs.tune.trainee import load_trainee

    order = _order(plan_finetune(tiny_config(base, tmp_path)), tmp_path / "out")
    order.update(steps=3, look_every=1, sample_every=1, **changes)
    return load_trainee(order)[0], order


@pytest.mark.parametrize(
    ("bad", "said", "hint"),
    [(2, "Divergence: the loss is no number any more at step 2", "--lr"), (1, "no number at the first step", "base")],
)
def test_a_loss_that_is_no_number_ends_a_training(base, tmp_path, monkeypatch, bad, said, hint):
    from localknobs.tune import training

    trainee, order = trainee_order(base, tmp_path)
    losses, real = [], training.summed_loss

    def broken(*arguments):
        loss, count, right = real(*arguments)
        losses.append(float(loss.detach()))
        return (loss * float("nan") if len(losses) == bad else loss), count, right

    monkeypatch.setattr(training, "summed_loss", broken)
    example = Encoded([5, 6, 7, 8], [True] * 4, 1, 4)
    material = training.Material([example] * 8, [], [], [], [])
    run = training.Training(order, trainee, material, None, lambda message: None, lambda: False)
    with pytest.raises(LocalknobsError, match=said) as raised:
        run.run()
    assert hint in raised.value.hint


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
    assert result.data["seconds"] > 0, "timed with one and two layers"
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
    modules = plan.base.modules
    assert modules.names == names and len(modules.shapes) == weights and modules.layers == 2


@pytest.mark.slow
def test_the_three_forms_of_an_adapter_answer_alike(base, tmp_path):
    result, _ = train(tiny_config(base, tmp_path, prove=True, knobs={"learning_rate": 0.005}))
    assert result.proof.passed and result.proof.places > 300
    assert result.proof.gguf_adapter >= 0.98 and result.proof.merged >= 0.98
    card = json.loads((result.folder / CARD).read_text())
    assert card["proof"]["merged"] == result.proof.merged


@pytest.mark.slow
def test_an_adapter_that_gguf_cannot_hold_is_written_for_peft_alone(base, tmp_path):
    result, events = train(tiny_config(base, tmp_path, knobs={"dora": "on", "max_steps": 2}))
    assert result.gguf is None and open_adapter(result.folder).pairs[0].magnitude
    assert any(isinstance(event, Noted) and "DoRA" in event.text for event in events)


@pytest.mark.slow
def test_layers_computed_twice_give_the_same_losses(base, whole, tmp_path, monkeypatch):
    import dataclasses

    plan = plan_finetune(tiny_config(base, tmp_path, knobs={"lora_dropout": 0.0, "max_steps": 4}))
    plain = drain(finetune(plan))
    other = tiny_config(base, tmp_path, output=tmp_path / "twice", knobs={"lora_dropout": 0.0, "max_steps": 4})
    twice = plan_finetune(other)
    twice = dataclasses.replace(twice, price=dataclasses.replace(twice.price, checkpointing=True))
    assert drain(finetune(twice)).losses == pytest.approx(plain.losses, abs=1e-4)


def test_less_is_computed_at_once_and_then_layers_twice_where_memory_asks_for_it():
    shape = {
        "base": 4 * 10**8, "trained": 10**6, "batch": 8, "longest": 1024, "layers": 24, "width": 1024,
        "vocabulary": 32_000, "item_bytes": 4,
    }  # fmt: skip
    rich = price(**shape, available=0)
    assert not rich.checkpointing and rich.trained_parameters == 10**6 and rich.at_once == 8
    half = price(**shape, available=rich.total - 1)
    assert not half.checkpointing and half.at_once == 4 and half.total < rich.total
    poor = price(**shape, available=half.total // 2)
    assert poor.checkpointing and poor.total <= half.total // 2
    assert price(**shape, available=1).at_once == 1, "the least there is, for the refusal to tell"


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.0), ("linear", 0.0), ("constant", 1.0)])
def test_the_rate_rises_and_falls(schedule, end):
    rates = [rate_at(step, 100, 0.1, schedule) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[100] == pytest.approx(end)
    assert all(later >= earlier for earlier, later in itertools.pairwise(rates[:10]))


def test_every_example_is_read_once_a_reading_and_the_order_goes_on():
    examples = [Encoded([1] * (1 + number % 7), [True], number, 1) for number in range(30)]
    stream = endless(examples, 4, seed=5, done=0)
    taken = [next(stream) for _ in range(24)]
    for reading in (taken[:8], taken[8:16]):
        assert sorted(example.line for batch in reading for example in batch) == list(range(30))
    assert taken[:8] != taken[8:16]
    later = endless(examples, 4, seed=5, done=11)
    assert [next(later) for _ in range(13)] == taken[11:]
