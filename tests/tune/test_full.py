"""Full fine-tuning: all weights are trained, and the result is a model, as a checkpoint and as GGUF."""

import json
import shutil

import pytest
from tiny_training import make_base, tiny_config

from localknobs.convert.checkpoint import open_checkpoint
from localknobs.gguf_info import read_header
from localknobs.jobs import Measured, drain
from localknobs.tune.finetune import CARD, finetune
from localknobs.tune.plan import plan_finetune

KNOBS = {"method": "full", "learning_rate": 0.003}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return drain(finetune(plan_finetune(tiny_config(base, folder, knobs=KNOBS, prove=True))))


def test_the_result_is_a_model(base, whole):
    assert whole.after["held_out"] < 0.97 * whole.before["held_out"]
    before, after = open_checkpoint(base), open_checkpoint(whole.folder)
    assert sorted(before.names()) == sorted(after.names())
    for name in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight"):
        assert before.info(name).dtype == after.info(name).dtype
        assert (before.read(name) != after.read(name)).any(), f"{name} was trained"
    assert (whole.folder / "tokenizer.json").is_file()
    header = read_header(whole.gguf)
    assert header.kind == "model" and header.chat_template
    assert whole.proof.passed and whole.proof.gguf_adapter is None and whole.proof.places > 300
    card = json.loads((whole.folder / CARD).read_text())
    assert card["method"] == "full" and card["parameters"] == header.parameters


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(base, whole, tmp_path):
    config = tiny_config(base, tmp_path, knobs=KNOBS)
    job = finetune(plan_finetune(config))
    for event in job:
        if isinstance(event, Measured) and event.name == "loss" and event.step == 7:
            break
    job.close()
    result = drain(finetune(plan_finetune(config)))
    assert result.losses == pytest.approx(whole.losses, abs=1e-3)
    assert result.after["held_out"] == pytest.approx(whole.after["held_out"], abs=1e-3)


@pytest.mark.slow
def test_it_is_a_base_again(whole, tmp_path):
    copy = shutil.copytree(whole.folder, tmp_path / "base")
    result = drain(finetune(plan_finetune(tiny_config(copy, tmp_path, knobs={"max_steps": 2}))))
    assert result.steps == 2
    assert result.before["held_out"] == pytest.approx(whole.after["held_out"], rel=0.5)


def test_it_takes_twenty_bytes_a_weight(base, tmp_path):
    plan = plan_finetune(tiny_config(base, tmp_path, knobs=KNOBS))
    assert plan.price.trained_parameters == plan.base.parameters
    assert plan.price.base + plan.price.trained == 20 * plan.base.parameters
