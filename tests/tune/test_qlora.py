"""QLoRA over the bytes of a GGUF file: it learns, it can be taken up again, and its adapter goes with that file."""

import json

import pytest
from quantized_base import make_wide_base, quantized
from shaped_models import Shape, write_shaped_model
from tiny_training import tiny_config

from localknobs.convert.adapter import open_adapter
from localknobs.errors import BadValue, NotEnough, NotFound, Unsupported
from localknobs.gguf_info import read_header
from localknobs.gguf_info.base_mark import BASE_MARK, norms_mark
from localknobs.jobs import Measured, Noted, drain
from localknobs.tune.encode import Encoded
from localknobs.tune.finetune import CARD, finetune, look_at_data
from localknobs.tune.plan import plan_finetune
from localknobs.tune.trainee import load_trainee

RATE = {"learning_rate": 0.01}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_wide_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def file(base, tmp_path_factory):
    return quantized(base, "Q4_K", tmp_path_factory.mktemp("file"))


def train(config):
    events = []
    result = drain(finetune(plan_finetune(config)), events.append)
    return result, events


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K"])
def test_the_loss_falls_over_the_bytes_of_each_type(base, tmp_path, type_name):
    import torch

    from localknobs.tune.losses import summed_loss

    order = {
        "base": str(base), "base_name": "named", "gguf": str(quantized(base, type_name, tmp_path)),
        "method": "qlora", "nf4": False,
        "rank": 4, "alpha": 8, "dropout": 0.0, "rslora": False, "dora": False,
        "modules": ["q_proj", "k_proj", "down_proj"], "checkpointing": type_name == "Q6_K", "seed": 1, "threads": 1,
    }  # fmt: skip
    trainee, device = load_trainee(order)
    before = trainee.base_model.model.model.layers[0].mlp.down_proj.base_layer.blocks.clone()
    trained = [value for value in trainee.parameters() if value.requires_grad]
    assert sum(value.numel() for value in trained) == 2 * 4 * (256 + 256 + 256 + 128 + 512 + 256)
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    batch = [Encoded([5 + at * row % 40 for at in range(24)], [True] * 24, row, 24) for row in range(1, 5)]
    losses = []
    for _ in range(12):
        loss, count, _ = summed_loss(trainee, batch, device)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()) / count)
    assert losses[-1] < 0.8 * losses[0], losses
    after = trainee.base_model.model.model.layers[0].mlp.down_proj.base_layer.blocks
    assert torch.equal(before, after), "the base's bytes stay as they are"


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    return train(tiny_config(file, tmp_path_factory.mktemp("whole"), knobs=RATE, prove=True))


def test_a_gguf_file_alone_is_enough(file, whole):
    result, events = whole
    assert any(isinstance(event, Noted) and "taken from the file itself" in event.text for event in events)
    assert result.after["held_out"] < 0.97 * result.before["held_out"]
    assert result.base_file == file and len(open_adapter(result.folder).pairs) == 14
    assert read_header(result.gguf).text(BASE_MARK) == norms_mark(read_header(file)), "it knows the file it belongs to"
    assert result.proof.passed and result.proof.gguf_adapter >= 0.99 and result.proof.merged is None
    assert json.loads((result.folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(file)
    card = json.loads((result.folder / CARD).read_text())
    assert card["method"] == "qlora" and card["base"] == str(file)
    assert not list(result.folder.parent.glob(".*")), "nothing is left beside it"


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(file, whole, tmp_path, monkeypatch):
    import localknobs.tune.finetune as module

    started = []
    real = module.WorkerProcess
    monkeypatch.setattr(module, "WorkerProcess", lambda command: started.append(real(command)) or started[-1])
    config = tiny_config(file, tmp_path, knobs=RATE)
    with pytest.raises(module.LocalknobsError, match="SIGKILL"):
        for event in finetune(plan_finetune(config)):
            if isinstance(event, Measured) and event.name == "loss" and event.step == 9:
                started[-1].process.kill()
    result, events = train(config)
    assert any(isinstance(event, Noted) and "Taken up after step" in event.text for event in events)
    assert result.losses == pytest.approx(whole[0].losses, abs=1e-3)


@pytest.mark.slow
def test_a_checkpoint_is_quantized_first_and_the_file_is_kept(base, tmp_path):
    config = tiny_config(base, tmp_path, prove=True, knobs={**RATE, "method": "qlora"})
    plan = plan_finetune(config)
    assert plan.base.quantized == "Q4_K_M" and plan.base.stored_bytes < plan.base.parameters
    result, _ = train(config)
    assert result.base_file == result.folder / "base-Q4_K_M.gguf" and result.base_file.is_file()
    assert result.proof.passed
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_dora_over_a_file_is_written_for_peft_alone(file, tmp_path):
    result, _ = train(tiny_config(file, tmp_path, knobs={"dora": "on", "max_steps": 2}))
    assert result.gguf is None and open_adapter(result.folder).pairs[0].magnitude


@pytest.mark.slow
def test_the_data_is_shown_without_any_checkpoint(file, tmp_path):
    result = drain(look_at_data(plan_finetune(tiny_config(file, tmp_path))))
    assert "<|im_start|>user" in "".join(text for text, _ in result.data["shown"])
    assert not list(tmp_path.glob(".*"))


def test_what_does_not_go_together_is_refused(base, file, tmp_path, monkeypatch):
    def refused(error, match, path, **changes):
        with pytest.raises(error, match=match) as raised:
            plan_finetune(tiny_config(path, tmp_path, **changes))
        return raised.value.hint

    assert "Leave --method out" in refused(BadValue, "is a GGUF file", file, knobs={"method": "full"})
    refused(BadValue, "keeps its types", file, knobs={"quantize_base": "Q8_0"})
    refused(BadValue, "Only the base of QLoRA", base, knobs={"method": "lora", "quantize_base": "Q8_0"})
    refused(BadValue, "is a checkpoint already", base, checkpoint=base)
    refused(NotFound, "is no checkpoint", file, checkpoint=tmp_path / "none")
    other = make_wide_base(tmp_path / "other", num_hidden_layers=1)
    refused(BadValue, "has 1 as num_hidden_layers", file, checkpoint=other)
    mixture = write_shaped_model(tmp_path / "mixture.gguf", Shape(experts=4))
    assert "--method lora" in refused(Unsupported, "mixture of experts", mixture)
    unknown = write_shaped_model(tmp_path / "unknown.gguf", Shape(family="mpt"))
    refused(Unsupported, "The architecture mpt cannot be trained", unknown)
    monkeypatch.setattr("localknobs.tune.base.graphics_cards", list)
    assert "Q4_K_M" in refused(Unsupported, "NVIDIA", base, knobs={"method": "qlora", "quantize_base": "NF4"})
    assert "Did you mean q_proj?" in refused(BadValue, "no module 'q_prj'", file, knobs={"lora_targets": "q_prj"})


def test_too_little_memory_is_an_error_before_any_work(base, file, tmp_path, monkeypatch):
    monkeypatch.setattr("localknobs.tune.plan.graphics_cards", list)
    taken = plan_finetune(tiny_config(file, tmp_path)).price
    assert taken.base < 2 * file.stat().st_size + 6 * 3072 * 256, "the file and one piece of it"
    monkeypatch.setattr("localknobs.tune.plan.available_memory_bytes", lambda: 2**20)
    with pytest.raises(NotEnough, match="at least") as raised:
        plan_finetune(tiny_config(file, tmp_path))
    assert "--method qlora" not in raised.value.hint
    with pytest.raises(NotEnough) as raised:
        plan_finetune(tiny_config(base, tmp_path, knobs={"method": "full"}))
    assert "--method qlora keeps the base in 4 bits" in raised.value.hint
    assert not list(tmp_path.glob(".*")), "nothing was begun"
