"""Packed examples have the losses and gradients they have alone; no example sees another."""

import pytest
from tiny_training import make_base, tiny_config

from localknobs.errors import Unsupported
from localknobs.jobs import drain
from localknobs.tune.encode import Encoded
from localknobs.tune.finetune import finetune
from localknobs.tune.losses import summed_loss
from localknobs.tune.packing import check_packing, packed_batch, rows_of
from localknobs.tune.plan import plan_finetune


def example(line, size, learned_from=1):
    return Encoded(
        [5 + (7 * line + at) % 90 for at in range(size)], [at >= learned_from for at in range(size)], line, size
    )


EXAMPLES = [example(1, 9), example(2, 20, 4), example(3, 5), example(4, 12, 0), example(5, 3)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def test_every_example_is_in_one_row_and_no_row_is_too_wide():
    rows = rows_of(EXAMPLES, 24)
    assert sorted(one.line for row in rows for one in row) == [1, 2, 3, 4, 5]
    assert len(rows) == 3 and all(sum(len(one.tokens) for one in row) <= 24 for row in rows)
    assert [len(row) for row in rows_of(EXAMPLES, 1)] == [1] * 5, "what is longer has a row for itself"


def test_positions_begin_anew_and_no_first_token_is_learned():
    given, wanted = packed_batch(EXAMPLES, 64)
    assert given["position_ids"].tolist() == [[*range(20), *range(12), *range(9), *range(5), *range(3)]]
    begins = [at for at, place in enumerate(given["position_ids"][0].tolist()) if place == 0]
    assert all(wanted[0, at] == -100 for at in begins)


@pytest.mark.parametrize("width", [24, 64])
def test_the_loss_and_the_gradient_are_those_of_single_examples(model, width):
    import torch

    def found(batches, pack):
        model.zero_grad()
        losses = [summed_loss(model, batch, "cpu", pack) for batch in batches]
        sum(loss for loss, _, _ in losses).backward()
        gradient = model.model.layers[0].self_attn.k_proj.weight.grad.clone()
        return sum(float(loss.detach()) for loss, _, _ in losses), sum(count for _, count, _ in losses), gradient

    alone, packed = found([[one] for one in EXAMPLES], 0), found([EXAMPLES], width)
    assert packed[0] == pytest.approx(alone[0], rel=1e-5) and packed[1] == alone[1]
    assert torch.allclose(packed[2], alone[2], atol=1e-4)
    assert found([EXAMPLES], 0)[0] == pytest.approx(alone[0], rel=1e-5), "as in padded rows"


def test_a_model_that_lets_examples_see_each_other_is_refused(model):
    check_packing(model, EXAMPLES, "cpu")

    class Leaking:
        def __call__(self, **given):
            given.pop("position_ids", None)  # without them all is one text
            return model(**given)

        def eval(self): ...

        def train(self): ...

    with pytest.raises(Unsupported, match="cannot be trained with packed examples") as raised:
        check_packing(Leaking(), EXAMPLES, "cpu")
    assert "--packing" in raised.value.hint


@pytest.mark.slow
def test_a_packed_training_has_the_losses_of_one_that_is_not(base, tmp_path):
    def losses(name, **knobs):
        config = tiny_config(base, tmp_path, output=tmp_path / name, knobs={"lora_dropout": 0.0, **knobs})
        return drain(finetune(plan_finetune(config))).losses

    assert losses("packed", packing="on") == pytest.approx(losses("plain"), abs=1e-3)


@pytest.mark.parametrize("changes", [{"at_once": 1}, {"at_once": 3}, {"pack": 64}, {"checkpointing": True}])
def test_what_is_computed_at_once_changes_no_loss(base, tmp_path, changes):
    from localknobs.tune.finetune import _order
    from localknobs.tune.trainee import load_trainee
    from localknobs.tune.training import Material, Training

    plan = plan_finetune(tiny_config(base, tmp_path, knobs={"lora_dropout": 0.0, "accumulation": 2}))

    def losses(**changed):
        order = {**_order(plan, tmp_path / "out"), "steps": 3, "look_every": 9, "sample_every": 9, **changed}
        trainee = load_trainee(order)[0]
        material = Material(EXAMPLES * 4, [], [], [], [])
        run = Training(order, trainee, material, None, lambda message: None, lambda: False)
        assert run.run()
        return run.progress.losses

    assert losses(**changes) == pytest.approx(losses(), abs=1e-4)
