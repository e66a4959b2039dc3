"""Perplexity and KL divergence against llama-perplexity's definitions, recomputed in numpy from llama.cpp's logits."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from evaluations import config_of, measure, raw_logits, variant
from made_adapters import write_adapter
from random_model import nudged, write_random_model

from localknobs.errors import BadFile, BadValue, EngineDied, NotEnough
from localknobs.evaluate.models import pieces
from localknobs.evaluate.run import evaluate, plan_eval
from localknobs.evaluate.stages import shipped_text
from localknobs.hardware import logical_cores
from localknobs.jobs import Advanced, Noted, drain

SIZE = 64
TEXT = "".join(chr(33 + (at * at + 7 * at) % 90) for at in range(12 * SIZE + 20))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = write_random_model(folder / "base.gguf", fillers=40)
    return base, nudged(base, folder / "near.gguf", 0.01), nudged(base, folder / "far.gguf", 0.3)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def reference(models, text, tmp_path_factory):
    """Return log-probabilities of each model and the right tokens, at the places that llama-perplexity scores."""
    folder, found = tmp_path_factory.mktemp("logits"), {}
    first = SIZE // 2
    for model in models:
        logits, tokens = raw_logits(model, text, SIZE, folder)
        wide = logits[:, first : SIZE - 1].astype(np.float64)
        wide -= wide.max(-1, keepdims=True)
        wide -= np.log(np.exp(wide).sum(-1, keepdims=True))
        found[model.stem] = wide.reshape(-1, wide.shape[-1])
    return found, tokens[:, first + 1 :].reshape(-1)


def error(values):
    return np.sqrt((np.mean(values**2) - np.mean(values) ** 2) / (len(values) - 1))


def test_perplexity_and_divergence_are_those_of_llama_perplexity(models, text, reference):
    logs, right = reference
    report = measure(models[1:], models[0], text=text)
    assert [model.label for model in report.models] == ["base", "near", "far"]
    assert report.text.chunks == 12 and report.text.predicted == 12 * 31 == len(right)
    at = np.arange(len(right))
    base = logs["base"]
    for model in report.models:
        own = logs[model.label]
        nll = -own[at, right]
        close = dict(rel=1e-5)
        assert model.perplexity.value == pytest.approx(np.exp(nll.mean()), **close)
        assert model.perplexity.error == pytest.approx(np.exp(nll.mean()) * error(nll), **close)
        if model.label == "base":
            assert model.divergence is None
            continue
        found = model.divergence
        kl = (np.exp(base) * (base - own)).sum(-1)
        same = (base.argmax(-1) == own.argmax(-1)).astype(float)
        change = np.exp(own[at, right]) - np.exp(base[at, right])
        ratio = nll + base[at, right]
        assert model.mode == "exact" and found.tokens == len(right)
        assert found.mean.value == pytest.approx(kl.mean(), **close)
        assert found.mean.error == pytest.approx(error(kl), **close)
        assert found.percentile_999 == pytest.approx(np.percentile(kl, 99.9), **close)
        assert found.median == pytest.approx(np.median(kl), **close)
        assert (found.smallest, found.largest) == pytest.approx((kl.min(), kl.max()), **close)
        assert found.same_top.value == pytest.approx(same.mean(), **close)
        share = same.mean()
        assert found.same_top.error == pytest.approx(np.sqrt(share * (1 - share) / (len(same) - 1)), **close)
        assert found.mean_change.value == pytest.approx(change.mean(), rel=1e-4)
        assert found.rms_change.value == pytest.approx(np.sqrt((change**2).mean()), **close)
        assert found.rms_change.error == pytest.approx(0.5 / found.rms_change.value * error(change**2), rel=1e-4)
        assert found.log_ratio.value == pytest.approx(ratio.mean(), rel=1e-4)
        assert found.log_ratio.error == pytest.approx(error(ratio), **close)
    near, far = report.models[1:]
    assert 0 < near.divergence.mean.value < 0.01 < far.divergence.mean.value


@pytest.mark.parametrize("mode", ["exact", "bounded"])
def test_a_model_and_itself_are_exactly_the_same(models, text, mode):
    (_, child) = measure([models[0]], models[0], text=text, mode=mode).models
    assert child.divergence.largest == child.divergence.smallest == 0.0
    assert child.divergence.same_top.value == 1.0 and child.divergence.log_ratio.value == 0.0


def test_the_bounded_mode_is_a_lower_bound_and_says_what_it_leaves_out(tmp_path, text):
    base = write_random_model(tmp_path / "base.gguf", fillers=700)
    child = nudged(base, tmp_path / "child.gguf", 0.3)
    (_, exact) = measure([child], base, text=text, mode="exact").models
    (_, bounded) = measure([child], base, text=text, mode="bounded").models
    assert (exact.mode, bounded.mode) == ("exact", "bounded")
    assert 0.5 * exact.divergence.mean.value < bounded.divergence.mean.value < exact.divergence.mean.value
    assert bounded.perplexity == exact.perplexity and bounded.divergence.same_top == exact.divergence.same_top
    assert 0.0 < bounded.outside < 0.5 and exact.outside == 0.0


@pytest.mark.parametrize("mode", ["exact", "bounded"])
def test_numbers_are_the_same_whether_cores_are_idle_or_not(models, text, mode):
    found = []
    for threads in (1, logical_cores()):
        config = replace(
            config_of([models[2]], models[0], text=text, mode=mode, chunks=3), threads=threads, restart=True
        )
        found.append(drain(evaluate(plan_eval(config))).models[1])
    one, all_cores = found
    assert all_cores.perplexity.value == pytest.approx(one.perplexity.value, rel=1e-6)
    assert all_cores.divergence.mean.value == pytest.approx(one.divergence.mean.value, rel=1e-5)


def test_small_vocabularies_are_kept_whole(models, text):
    (_, exact) = measure([models[2]], models[0], text=text, mode="exact", chunks=2).models
    (_, bounded) = measure([models[2]], models[0], text=text, mode="bounded", chunks=2).models
    # 301 tokens, of which 256 are kept: nearly all of it.
    assert bounded.divergence.mean.value == pytest.approx(exact.divergence.mean.value, rel=0.1)


@pytest.mark.parametrize(
    ("run", "calls"),
    [
        ((8, 4, 16, 99), [(0, 8, 4)]),
        ((8, 4, 16, 3), [(0, 4, 4), (4, 7, 4), (7, 8, 7)]),
        ((8, 4, 3, 99), [(0, 3, 3), (3, 4, 4), (4, 7, 4), (7, 8, 7)]),
        ((3, 0, 9, 1), [(0, 1, 0), (1, 2, 1), (2, 3, 2)]),
    ],
)
def test_calls_keep_few_logits_and_few_tokens(run, calls):
    assert list(pieces(*run)) == calls


def test_a_text_too_short_says_how_much_is_needed(models, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("x" * 99, encoding="utf-8")
    with pytest.raises(BadValue, match=r"has 100 tokens for near, and it takes 128: 2 of 64"):
        measure([models[1]], text=short)


def test_a_run_that_was_stopped_goes_on_where_it_was(models, text):
    config = config_of(models[1:], models[0], text=text, chunks=6)
    job, seen = evaluate(plan_eval(config)), 0
    for event in job:
        seen += isinstance(event, Advanced)
        if seen == 7:  # 3 models a chunk
            break
    job.close()
    notes, advances = [], []
    again = measure(models[1:], models[0], text=text, chunks=6, on_event=lambda event: (
        notes.append(event) if isinstance(event, Noted) else advances.append(isinstance(event, Advanced))
    ))  # fmt: skip
    assert notes[0].text == "2 of 6 chunks were read before and are kept: --restart reads them anew."
    assert sum(advances) == 3 * 4
    fresh = measure(models[1:], models[0], text=text, chunks=6, restart=True)
    assert again.models == fresh.models


def test_other_settings_are_measured_apart(models, text):
    events = []
    measure([models[1]], text=text, chunks=2)
    measure([models[1]], text=text, chunks=2, on_event=events.append)
    assert not any(isinstance(event, Advanced) for event in events)
    measure([models[1]], text=text, chunks=2, chunk_tokens=32, on_event=events.append)
    assert sum(isinstance(event, Advanced) for event in events) == 2


def test_a_short_time_draws_a_sample_and_says_so(models, text):
    report = measure(models[1:], models[0], text=text, chunk_tokens=16, minutes=0.002)
    used = report.text
    if used.chunks < used.chunks_whole:
        assert used.why == "as many as 0.002 minutes allow, drawn with seed 1"
    assert {model.divergence.tokens for model in report.models[1:]} == {used.predicted}


def test_a_short_time_ends_the_first_of_models_without_a_parent(models, text):
    """They are read one after the other, and the second reads what the first had time for."""
    report = measure(models[1:3], text=text, suites=("ppl",), chunk_tokens=16, minutes=1e-6)
    assert report.text.chunks < report.text.chunks_whole and "minutes allow" in report.text.why
    assert all(model.perplexity.value > 1 for model in report.models)


def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(models, tmp_path, text):
    with pytest.raises(BadValue, match="kld compares with a parent"):
        measure([models[1]], suites=("kld",))
    with pytest.raises(BadValue, match="no suite 'pplx'"):
        measure([models[1]], suites=("pplx",))
    with pytest.raises(BadValue, match="cannot have 5 tokens"):
        measure([models[1]], chunk_tokens=5)
    other = tmp_path / "other.txt"
    other.write_bytes(b"abc\xff")
    with pytest.raises(BadFile, match="not UTF-8"):
        measure([models[1]], text=other)


def test_a_parent_of_another_vocabulary_is_refused(models, text, tmp_path):
    other = write_random_model(tmp_path / "other.gguf", fillers=["!%", "abc"])
    with pytest.raises(BadValue, match="other has 263 tokens in its vocabulary, and its parent base 301"):
        measure([other], models[0], text=text)


def test_weights_that_are_no_numbers_are_named(text, tmp_path):
    header_of = write_random_model(tmp_path / "model.gguf")
    broken = nudged(header_of, tmp_path / "broken.gguf", float("nan"))
    with pytest.raises(BadFile, match="broken gives logits that are no numbers"):
        measure([broken], text=text)


def test_the_shipped_text_is_not_the_calibration_text():
    from localknobs.convert import imatrix

    def runs(file, length=6):
        words = re.findall(r"\w+", file.read_text(encoding="utf-8").lower())
        return {tuple(words[at : at + length]) for at in range(len(words) - length)}

    assert not runs(shipped_text()) & runs(imatrix.shipped_text())
    assert len(shipped_text().read_bytes()) > 15_000


def test_adapters_and_cache_types_are_measured_as_variants(models, text, tmp_path):
    adapter, base = write_adapter(tmp_path / "adapter.gguf", models[0], strength=1.0, only="attn_q"), variant(models[0])
    variants = (
        replace(base, label="off", settings=replace(base.settings, lora=(f"{adapter}:0",))),
        replace(base, label="on", settings=replace(base.settings, lora=(f"{adapter}:0.5",))),
        replace(base, label="cache", settings=replace(base.settings, cache_type_k="bf16", cache_type_v="bf16")),
    )
    config = replace(config_of(models[:1], models[0], text=text, chunks=4), models=variants)
    _, off, on, cache = drain(evaluate(plan_eval(config))).models
    assert off.divergence.largest == 0.0 < cache.divergence.mean.value < 0.01 < on.divergence.mean.value
    assert on.size_bytes == models[0].stat().st_size + adapter.stat().st_size


def test_a_model_is_no_adapter(models):
    wrong = variant(models[0])
    wrong = replace(wrong, settings=replace(wrong.settings, lora=(str(models[1]),)))
    with pytest.raises(BadFile, match="is a model, not a LoRA adapter"):
        plan_eval(replace(config_of(models[:1]), models=(wrong,)))


def test_the_engines_death_is_told_and_what_was_measured_is_kept(built_in):
    job = evaluate(plan_eval(config_of([built_in], chunk_tokens=256)))
    with pytest.raises(EngineDied, match="ended by signal SIGKILL"):
        for event in job:
            if isinstance(event, Advanced):
                for worker in [one for one in children() if "evaluate.worker" in one]:
                    os.kill(int(worker.split()[0]), signal.SIGKILL)
    notes = []
    measure([built_in], chunk_tokens=256, chunks=2, on_event=notes.append)
    assert any(isinstance(note, Noted) and "were read before" in note.text for note in notes) or not any(
        isinstance(event, Advanced) for event in notes
    )


def children():
    """Return the processes that this one has started, each as its number and its command."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return found.stdout.splitlines()


def test_the_memory_is_planned_with_the_context_that_was_asked_for(models, text):
    one = variant(models[0], n_ctx=2048)
    config = replace(config_of(models[:1], text=text, chunks=2), models=(one,), plan_memory=True)
    (found,) = drain(evaluate(plan_eval(config))).models
    cache = 2048 * 2 * (2 * 2 * 16) * 2  # tokens, layers, keys and values of 2 heads of 16, bytes
    assert found.context == 2048 and cache < found.memory_bytes - models[0].stat().st_size < cache + 2**26


def test_a_disk_without_room_for_what_is_kept_is_told_before(models, text, monkeypatch):
    from localknobs.evaluate import kept

    monkeypatch.setattr(kept, "free_disk_bytes", lambda folder: 1000)
    with pytest.raises(NotEnough, match=r"log-probabilities take .* and 1,000 B of the disk are free"):
        measure([models[1]], models[0], text=text, mode="bounded")
