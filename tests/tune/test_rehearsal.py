"""Rehearsal holds a model to what its base says at old rows; none of them is learned or measured."""

import json

import pytest
from tiny_training import make_base, tiny_config

from localknobs.convert.imatrix import shipped_text as calibration_text
from localknobs.errors import LocalknobsError
from localknobs.evaluate.stages import shipped_text
from localknobs.jobs import Measured, drain
from localknobs.tune.curves import curves_file, read_curves
from localknobs.tune.encode import Encoded
from localknobs.tune.examples import apart_from, read_examples, shipped_examples
from localknobs.tune.finetune import CARD, finetune, look_at_data
from localknobs.tune.plan import plan_finetune
from localknobs.tune.rehearsal import KEPT_TOKENS, TEMPERATURE, chosen_rows, noted, old_beside, summed_divergence

OLD = shipped_examples("flags", "-rehearsal")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def written(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_how_many_old_rows_are_read_beside_a_batch():
    assert [old_beside(8, share) for share in (0.0, 0.05, 0.2, 0.5, 0.9)] == [0, 1, 2, 8, 72]
    assert old_beside(1, 0.5) == 1


def test_no_more_rows_are_noted_than_can_be_read():
    rows = [Encoded([1] * 1000, [True] * 1000, number, 1000) for number in range(300)]
    silent = Encoded([1, 2, 3], [True, False, False], 1, 3)
    assert len(chosen_rows([silent, *rows], 1000, 1)) == 200, "200,000 places at most"
    assert len(chosen_rows(rows, 7, 1)) == 7 and silent not in chosen_rows([silent, *rows], 1000, 1)
    assert chosen_rows(rows, 7, 1) == chosen_rows(rows, 7, 1) != chosen_rows(rows, 7, 2)


def test_the_divergence_is_that_of_the_noted_tokens_and_of_the_rest(base):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = [Encoded(list(range(5, 5 + size)), [at > 2 for at in range(size)], size, size) for size in (9, 4, 6)]
    told = []
    assert noted(model, rows, 1, "cpu", told.append, lambda: len(told) == 2) is None and len(told) == 2, "stopped"
    told.clear()
    old = noted(model, rows, 2, "cpu", told.append, lambda: False)
    assert [one.row for one in old] == rows and sum(message["noted"] for message in told) == 3
    assert [tuple(one.likeliest.shape) for one in old] == [(6, KEPT_TOKENS), (1, KEPT_TOKENS), (3, KEPT_TOKENS)]
    with torch.no_grad():
        assert float(summed_divergence(model, old, "cpu")) == pytest.approx(0.0, abs=1e-4)
        before = [model(torch.tensor([row.tokens])).logits[0].log_softmax(-1) for row in rows]
        for value in model.parameters():
            value.mul_(1.3)
        found = float(summed_divergence(model, old, "cpu"))
        expected = 0.0
        for row, was in zip(rows, before, strict=True):
            now = model(torch.tensor([row.tokens])).logits[0].log_softmax(-1)
            for at in range(2, len(row.tokens) - 1):
                top = was[at].topk(KEPT_TOKENS).indices
                roots = [
                    torch.cat([one[top].exp(), 1 - one[top].exp().sum(0, keepdim=True)]) ** (1 / TEMPERATURE)
                    for one in (was[at], now[at])
                ]
                first, second = (root / root.sum() for root in roots)
                expected += TEMPERATURE**2 * float((first * (first / second).log()).sum())
    assert found == pytest.approx(expected, rel=1e-3) and found > 0


def test_what_is_learned_or_measured_is_never_rehearsed(base, tmp_path):
    same = {"prompt": "Say 3!", "completion": "something else"}
    old = written(tmp_path / "old.jsonl", [same, {"prompt": "What is a knob?", "completion": "It is turned."}])
    plan = plan_finetune(tiny_config(base, tmp_path, rehearsal=old))
    assert [example.messages[0][1] for example in plan.rehearsal] == ["What is a knob?"]
    assert any("1 questions or lines of old.jsonl are also learned or measured" in note for note in plan.notes)
    text = tmp_path / "old.txt"
    text.write_text("A line of its own, to be rehearsed.\nThis very line is measured too.\n")
    measured = tmp_path / "measured.txt"
    measured.write_text("Another beginning of the text.\n  this very line is measured too\n")
    plan = plan_finetune(tiny_config(base, tmp_path, rehearsal=text, general=measured))
    assert "of its own" in plan.rehearsal[0].messages[0][1] and "very line" not in plan.rehearsal[0].messages[0][1]
    plan = plan_finetune(tiny_config(base, tmp_path, rehearsal=measured, general=measured))
    assert not plan.rehearsal and any("nothing is rehearsed" in note for note in plan.notes)


def test_what_is_shipped_to_rehearse_is_apart_from_what_measures():
    old = read_examples(OLD)
    for part in ("", "-held-out", "-general"):
        assert apart_from(old, read_examples(shipped_examples("flags", part))) == (old, 0)
    text = read_examples(calibration_text())
    assert apart_from(text, read_examples(shipped_text())) == (text, 0)


def test_the_dry_run_and_the_price_count_what_is_rehearsed(base, tmp_path):
    knobs = {"max_steps": 5, "rehearsal_share": 0.5}
    plan = plan_finetune(tiny_config(base, tmp_path, rehearsal=OLD, knobs=knobs))
    assert drain(look_at_data(plan)).data["rehearsal"] == 20, "4 beside each batch of 4"
    assert plan.price.noted > 1600 * 100 and plan.price.total > plan.price.base + plan.price.noted
    none = plan_finetune(tiny_config(base, tmp_path, rehearsal=OLD, knobs={"rehearsal_share": 0.0}))
    assert not none.rehearsal and not none.price.noted and none.fingerprint != plan.fingerprint


def rehearsed(base, folder, name, weight):
    knobs = {"max_steps": 8, "rehearsal_weight": weight, "held_out_share": 0.0, "lora_dropout": 0.0}
    return tiny_config(base, folder, output=folder / name, rehearsal=OLD, knobs=knobs)


def drift_of(result):
    return [value for _, value in read_curves(curves_file(result.folder)).drift]


def test_a_rehearsed_training_stays_nearer_to_its_base_and_goes_on_where_it_was(base, tmp_path):
    held, free = (
        drain(finetune(plan_finetune(rehearsed(base, tmp_path, f"weight-{weight:g}", weight))))
        for weight in (100.0, 0.001)
    )
    assert len(drift_of(held)) == 8 and sum(drift_of(held)) < 0.7 * sum(drift_of(free))
    card = json.loads((held.folder / CARD).read_text())
    assert card["rehearsal"] == str(OLD) and card["knobs"]["rehearsal_weight"] == 100.0
    config = rehearsed(base, tmp_path, "stopped", 100.0)
    job = finetune(plan_finetune(config))
    for event in job:
        if isinstance(event, Measured) and event.name == "loss" and event.step == 4:
            break
    job.close()
    again = drain(finetune(plan_finetune(config)))
    assert again.losses == pytest.approx(held.losses, abs=1e-3)
    assert drift_of(again) == pytest.approx(drift_of(held), abs=1e-3)


def test_a_file_to_rehearse_that_is_missing_is_named(base, tmp_path):
    with pytest.raises(LocalknobsError, match=r"old\.jsonl does not exist"):
        plan_finetune(tiny_config(base, tmp_path, rehearsal=tmp_path / "old.jsonl"))
