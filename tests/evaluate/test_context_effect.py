"""What RoPE settings do, measured: against llama.cpp's own logits, with intervals, kept for the cards; refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from evaluations import raw_logits
from random_model import write_random_model

from localknobs.cli.main import run
from localknobs.engine import LoadSettings
from localknobs.errors import BadValue
from localknobs.evaluate import context_plan
from localknobs.evaluate.context_effect import ContextEffect, measure_effect
from localknobs.evaluate.context_plan import plan_effect
from localknobs.gguf_info import read_header
from localknobs.jobs import Noted, Started, drain

TEXT = "".join(chr(33 + (at * at + 7 * at) % 90) for at in range(2100))
YARN = {"rope_scaling": "yarn", "rope_scale": 2.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return write_random_model(folder / "short.gguf", context=512)


@pytest.fixture(autouse=True, scope="module")
def few_needles():
    """Hide a number at two depths: enough for the tests, and a fifth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_plan, "NEEDLES_A_CELL", 1)
        patch.setattr(context_plan, "NEEDLE_DEPTHS", 2)
        yield


def plan(model: Path, minutes: float = 0.0, **settings):
    settings = LoadSettings(model=model, n_gpu_layers=0, threads=1, **settings)
    return plan_effect(
        read_header(model), settings, "short", text=model.with_name("text.txt"), minutes=minutes, command="again"
    )


@pytest.fixture(scope="module")
def found(model, tmp_path_factory) -> ContextEffect:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALKNOBS_HOME", str(tmp_path_factory.mktemp("home")))
        return drain(measure_effect(plan(model, **YARN)))


def surprises(model: Path, size: int, folder: Path) -> np.ndarray:
    """Return minus the log-probabilities of the tokens in the second half of each chunk of a text, unscaled."""
    logits, tokens = raw_logits(model, model.with_name("text.txt"), size, folder)
    logits = logits[:, size // 2 :].astype(np.float64)
    whole = np.logaddexp.reduce(logits, axis=-1)
    followers = np.reshape(tokens[: logits.shape[0] * size], (-1, size))[:, size // 2 + 1 :]
    picked = np.take_along_axis(logits[:, :-1], followers[..., None], -1)[..., 0]
    return whole[:, :-1] - picked


def test_short_prompts_and_both_sides_of_the_trained_length_are_compared(found, model, tmp_path):
    assert (found.trained, found.length, found.reach, found.short_tokens) == (512, 1024, 1024, 512)
    assert found.short.mean.value > 0 and found.short.mean.low < found.short.mean.value < found.short.mean.high
    assert found.plain.value != found.scaled.value
    within, beyond = found.places
    assert (within.begin, within.end, beyond.begin, beyond.end) == (1, 512, 513, 1023)
    mine = surprises(model, 1024, tmp_path)
    assert beyond.plain.value == pytest.approx(math.exp(mine.mean()), rel=1e-3)
    ratio = math.exp(beyond.log_ratio.value)
    assert ratio == pytest.approx(beyond.scaled.value / beyond.plain.value)
    near, far = found.hidden
    assert near.lengths == (384,) and far.lengths == (768, 1008) and far.plain.count == far.scaled.count == 4


def test_the_lines_say_intervals_and_what_it_is_compared_with(found):
    said = "\n".join(f"{what} {text}" for what, text in found.lines())
    assert "short prompts 512 tokens" in said and "mean KL divergence" in said
    assert "within training places 1 to 512" in said and "beyond places 513 to 1,023" in said
    assert "prompts of 768 and 1,008 tokens" in said and "nan" not in said
    data = found.as_mapping()
    json.dumps(data, allow_nan=False)
    assert data["lines"][0][0] == "short prompts" and data["against"] == "short"


def test_a_file_that_scales_by_itself_is_compared_with_itself_unscaled(tmp_path, model):
    keys = {
        "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0,
        "llama.rope.scaling.original_context_length": 512,
    }  # fmt: skip
    path = write_random_model(tmp_path / "long.gguf", context=1024, keys=keys)
    made = plan_effect(read_header(path), LoadSettings(model=path), "long", text=model.with_name("text.txt"))
    assert made.plain.settings.rope_scaling == "none" and made.scaled.settings.rope_scaling == "model"
    assert (made.trained, made.length, made.turned) == (512, 1024, {"rope_scaling": "model"})
    other = plan_effect(read_header(path), LoadSettings(model=path, rope_scale=4.0), "long")
    assert other.plain.settings.rope_scaling == "model" and (other.trained, other.length) == (1024, 2048)


def test_without_scaling_there_is_nothing_to_measure(model):
    with pytest.raises(BadValue, match="nothing is scaled"):
        plan(model)
    with pytest.raises(BadValue, match="nothing is scaled"):
        plan(model, n_ctx=4096)
    with pytest.raises(BadValue, match="--minutes"):
        plan(model, minutes=-1, **YARN)


def test_a_short_time_measures_short_prompts_and_says_what_the_rest_takes(model):
    events = []
    effect = drain(measure_effect(plan(model, minutes=0.001, **YARN)), events.append)
    assert effect.reach == 512 and not effect.places and not effect.hidden
    (note,) = [event.text for event in events if isinstance(event, Noted)]
    assert "on short prompts only" in note and "1,024 tokens take at least" in note and note in effect.notes


def test_a_text_too_short_for_long_pieces_leaves_perplexity_beyond_out(model, tmp_path):
    text = tmp_path / "brief.txt"
    text.write_text(TEXT[:1100], encoding="utf-8")
    settings = LoadSettings(model=model, n_gpu_layers=0, threads=1, n_ctx=1200, **YARN)
    effect = drain(measure_effect(plan_effect(read_header(model), settings, "short", text=text, minutes=0)))
    assert not effect.places and len(effect.hidden) == 2 and "a longer one (--text)" in effect.notes[0]


def test_it_can_be_stopped_at_any_moment_and_goes_on(model):
    job = measure_effect(plan(model, **YARN))
    for event in job:
        if isinstance(event, Started) and event.what.startswith("looking for"):
            break
    job.close()
    events = []
    drain(measure_effect(plan(model, **YARN)), events.append)
    assert not any(isinstance(event, Started) and event.what.startswith("reading") and event.total < 3000
                   for event in events), "short prompts were read before"  # fmt: skip


def test_the_verb_keeps_it_for_the_cards(model, capsys):
    words = ["context", str(model), "--rope-scaling", "yarn", "--factor", "2", "--measure", "-f"]
    assert run([*words, str(model.with_name("text.txt")), "--minutes", "0.001"]) == 0
    shown = capsys.readouterr()
    assert "short with --rope-scaling yarn --rope-scale 2, against short" in shown.out and "Again: " in shown.out
    assert run(["knobs", "rope_scale", "--json"]) == 0
    (effect,) = json.loads(capsys.readouterr().out)["measured"]
    assert effect["settings"] == {"rope_scaling": "yarn", "rope_scale": "2"}
    assert (effect["lever"], effect["model"], effect["against"]) == ("context", "short", "short")
    assert effect["text"].startswith("short prompts: mean KL divergence") and effect["numbers"]["kld_mean"] > 0


def test_the_verb_refuses_what_it_cannot_measure(model, capsys, tmp_path):
    assert run(["context", str(model), "--measure"]) == 2
    assert "nothing is scaled" in capsys.readouterr().err
    out = str(tmp_path / "out.gguf")
    assert run(["context", str(model), "--factor", "2", "--measure", "-o", out]) == 2
    assert "do not go together" in capsys.readouterr().err
