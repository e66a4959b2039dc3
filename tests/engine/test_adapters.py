"""Adapters as live knobs: the base to the bit at 0, no trace after a swap, layers that add up, refusals, no reload."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from engine_helpers import ask, user
from made_adapters import write_adapter, write_control_vector, write_merged
from random_model import write_random_model

from localknobs.engine.client import Engine
from localknobs.engine.controls import Plan
from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound, Unsupported
from localknobs.paths import built_in_model

PROMPT = "What does temperature do, and what does it cost? " * 8
READ = Plan(write=False)
FRESH = Plan(write=False, fresh=True)
SETTINGS = {"n_ctx": 1024}


def scores(engine: Engine, plan: Plan = READ, prompt: str = PROMPT) -> np.ndarray:
    """Return the scores of every token that could come after a prompt, by token."""
    ask(engine, prompt, {"temp": 0.0}, plan=plan)
    found = engine.look(top=engine.info.vocabulary_size).candidates
    assert len(found) == engine.info.vocabulary_size
    return np.array([one.score for one in sorted(found, key=lambda one: one.token)])


def pid(engine: Engine) -> int:
    assert engine._worker
    return engine._worker.process.pid


@pytest.fixture(scope="module")
def built_in() -> Path:
    return built_in_model()


@pytest.fixture(scope="module")
def adapters(folder: Path, built_in: Path) -> tuple[str, str]:
    return tuple(str(write_adapter(folder / f"{at}.gguf", built_in, seed=at, strength=0.02)) for at in (1, 2))


@pytest.fixture(scope="module")
def vector(folder: Path, built_in: Path) -> str:
    return str(write_control_vector(folder / "vector.gguf", built_in))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    return write_random_model(folder / "plain.gguf", layers=3, norm_spread=0.1, sharpness=4.0, context=1024)


def test_scale_0_is_the_base_to_the_bit(open_engine, built_in, adapters, vector):
    base = scores(open_engine(built_in, **SETTINGS))
    resting = open_engine(
        built_in, **SETTINGS, lora=(f"{adapters[0]}:0", f"{adapters[1]}:0"), control_vector=(f"{vector}:0",)
    )
    assert np.array_equal(scores(resting), base)
    resting.use_settings({"lora": adapters, "control_vector": (vector,)})
    assert np.abs(scores(resting) - base).max() > 0.1
    resting.use_settings({"lora": (), "control_vector": ()})
    assert np.array_equal(scores(resting, FRESH), base)


def test_1_to_0_to_1_leaves_no_trace(open_engine, built_in, adapters):
    fresh = open_engine(built_in, **SETTINGS, lora=adapters[:1])
    first, again = scores(fresh), scores(fresh)
    engine = open_engine(built_in, **SETTINGS)
    base = scores(engine)
    engine.use_settings({"lora": adapters[:1]})
    assert np.array_equal(scores(engine), first), "what the base's cache held was used"
    engine.use_settings({"lora": (f"{adapters[0]}:0",)})
    assert np.array_equal(scores(engine, FRESH), base)
    engine.use_settings({"lora": adapters[:1]})
    # Its own cache is still there: only the last token is computed, as when the same is asked twice.
    assert np.array_equal(scores(engine), again) and engine.stats.reused_tokens == engine.stats.prompt_tokens - 1
    assert np.array_equal(scores(engine, FRESH), first)


def test_a_change_takes_effect_at_the_next_answer_without_a_reload(open_engine, built_in, adapters, vector):
    engine = open_engine(built_in, **SETTINGS)
    worker, seen = pid(engine), []
    for lora, vectors in ((), ()), (adapters[:1], ()), (adapters, ()), ((f"{adapters[1]}:-0.5",), (vector,)), ((), ()):
        engine.use_settings({"lora": lora, "control_vector": vectors})
        seen.append(scores(engine, FRESH))
    assert pid(engine) == worker and np.array_equal(seen[0], seen[-1])
    assert all(np.abs(one - other).max() > 0.01 for one, other in zip(seen, seen[1:], strict=False))


def test_what_the_base_read_is_not_used_under_an_adapter(open_engine, built_in, adapters):
    engine = open_engine(built_in, **SETTINGS)
    scores(engine)
    engine.use_settings({"lora": adapters})
    ask(engine, PROMPT + "More", {"n_predict": 4, "temp": 0.0})
    assert engine.stats.reused_tokens == 0


def test_two_adapters_layered_are_the_merge_of_both(open_engine, plain, tmp_path):
    pair = [(write_adapter(tmp_path / f"{at}.gguf", plain, seed=at), scale) for at, scale in ((1, 0.7), (2, -0.4))]
    merged = scores(open_engine(write_merged(tmp_path / "merged.gguf", plain, pair)))
    engine = open_engine(plain, lora=tuple(f"{path}:{scale}" for path, scale in pair))
    layered = scores(engine)
    engine.use_settings({"lora": ()})
    assert np.abs(layered - merged).max() < 0.02 < 0.5 < np.abs(scores(engine) - merged).max()


def test_the_same_file_twice_acts_with_the_sum(open_engine, built_in, adapters):
    once = scores(open_engine(built_in, **SETTINGS, lora=(f"{adapters[0]}:0.5",)))
    twice = scores(open_engine(built_in, **SETTINGS, lora=(f"{adapters[0]}:0.25", f"{adapters[0]}:0.25")))
    assert np.array_equal(once, twice)


def test_control_vectors_add_up_and_keep_to_their_layers(open_engine, built_in, vector, folder):
    engine = open_engine(built_in, **SETTINGS, control_vector=(f"{vector}:2",))
    double = scores(engine, FRESH)
    copy = str(shutil.copy(vector, folder / "copy.gguf"))
    engine.use_settings({"control_vector": (vector, copy)})
    assert np.allclose(scores(engine, FRESH), double, atol=1e-4)
    engine.use_settings({"control_vector_layers": "2 3"})
    assert np.abs(scores(engine, FRESH) - double).max() > 0.01
    with pytest.raises(BadValue, match="layer-range"):
        engine.use_settings({"control_vector_layers": "3 2"})


def test_an_adapter_of_another_base_of_the_same_shapes_is_refused(open_engine, plain, tmp_path):
    other = write_random_model(tmp_path / "other.gguf", layers=3, norm_spread=0.1, seed=9)
    adapter = str(write_adapter(tmp_path / "of-other.gguf", other))
    with pytest.raises(Unsupported, match="trained on another base than plain.gguf"):
        open_engine(plain, lora=(adapter,))
    engine = open_engine(plain, lora=(adapter,), lora_any_base="on")
    assert any("another base" in note for note in engine.info.notes)


def test_a_quantization_of_the_same_base_is_accepted(open_engine, plain, tmp_path):
    adapter = str(write_adapter(tmp_path / "adapter.gguf", plain))
    small = write_random_model(tmp_path / "small.gguf", layers=3, norm_spread=0.1, sharpness=4.0, kind="Q8_0")
    engine = open_engine(small, lora=(adapter,))
    assert not any("adapter" in note for note in engine.info.notes)


def test_one_that_does_not_say_its_base_is_taken_with_a_note_once(open_engine, plain, tmp_path):
    adapter = str(write_adapter(tmp_path / "silent.gguf", plain, says_base=False))
    engine = open_engine(plain)
    assert engine.use_settings({"lora": (adapter,)}) == ("silent.gguf does not say on which model it was trained.",)
    assert engine.use_settings({"lora": (f"{adapter}:0.5",)}) == ()


def _refused(plain: Path, tmp_path: Path) -> dict[str, tuple[dict[str, Any], type[LocalknobsError], str]]:
    wide = write_random_model(tmp_path / "wide.gguf", layers=3, width=96)
    deep = write_random_model(tmp_path / "deep.gguf", layers=5, norm_spread=0.1)
    text = tmp_path / "text.gguf"
    text.write_text("no GGUF at all")
    empty = tmp_path / "folder"
    empty.mkdir()
    of = {
        "wide": write_adapter(tmp_path / "of-wide.gguf", wide),
        "deep": write_adapter(tmp_path / "of-deep.gguf", deep),
        "phi": write_adapter(tmp_path / "phi.gguf", plain, architecture="phi3"),
        "half": tmp_path / "half.gguf",
        "narrow": write_control_vector(tmp_path / "narrow.gguf", plain, width=32),
        "far": write_control_vector(tmp_path / "far.gguf", deep),
    }
    whole = (tmp_path / "of-deep.gguf").read_bytes()
    of["half"].write_bytes(whole[: len(whole) // 2])
    return {
        "missing": ({"lora": ("nowhere.gguf",)}, NotFound, "nowhere.gguf"),
        "a model": ({"lora": (str(plain),)}, BadFile, "is a model, not a LoRA adapter"),
        "another kind": ({"lora": (str(of["narrow"]),)}, BadFile, "--control-vector"),
        "text": ({"lora": (str(text),)}, BadFile, "text.gguf"),
        "cut short": ({"lora": (str(of["half"]),)}, BadFile, "cut short"),
        "a folder": ({"lora": (str(empty),)}, BadFile, "without a GGUF adapter"),
        "architecture": ({"lora": (str(of["phi"]),)}, Unsupported, "architecture phi3"),
        "shapes": ({"lora": (str(of["wide"]),)}, Unsupported, "of 96 x 48"),
        "layers": ({"lora": (str(of["deep"]),)}, Unsupported, "blk.3"),
        "scale": ({"lora": (f"{of['deep']}:nan",)}, BadValue, "nan"),
        "vector's width": ({"control_vector": (str(of["narrow"]),)}, Unsupported, "32 wide"),
        "vector's layers": ({"control_vector": (str(of["far"]),)}, Unsupported, "layer 4"),
    }


def test_what_does_not_fit_is_refused_with_the_reason_and_nothing_changes(open_engine, plain, tmp_path):
    engine = open_engine(plain)
    before, worker = scores(engine), pid(engine)
    for name, (change, kind, words) in _refused(plain, tmp_path).items():
        with pytest.raises(kind) as caught:
            engine.use_settings(change)
        assert words in str(caught.value), name
        assert engine.settings.lora == () and pid(engine) == worker, name
    assert np.array_equal(scores(engine, FRESH), before)


def test_a_changed_file_counts_as_another_adapter(open_engine, plain, tmp_path):
    file = write_adapter(tmp_path / "mine.gguf", plain, seed=1)
    engine = open_engine(plain, lora=(str(file),))
    first = scores(engine)
    write_adapter(file, plain, seed=2)
    engine.use_settings({"lora": (str(file),)})
    assert np.abs(scores(engine) - first).max() > 0.1 and engine.stats.reused_tokens == 0


def test_a_parked_cache_belongs_to_its_adapters(open_engine, plain, tmp_path):
    adapter = str(write_adapter(tmp_path / "adapter.gguf", plain))
    parked = {"park_cache": "disk", "n_ctx": 1024}
    engine = open_engine(plain, **parked, lora=(adapter,))
    scores(engine)
    assert engine.save_cache("one").tokens > 64
    for settings, usable in (({}, False), ({"lora": (f"{adapter}:0.5",)}, False), ({"lora": (adapter,)}, True)):
        other = open_engine(plain, **parked, **settings)
        done = other.restore_cache("one")
        assert bool(done.tokens) == usable and ("adapters" in done.note) != usable


@pytest.mark.parametrize("settings", [{"context_full": "sinks"}, {"draft": "ngram"}], ids=str)
def test_they_stay_on_with_what_makes_room_and_guesses_ahead(open_engine, plain, tmp_path, settings):
    adapter = str(write_adapter(tmp_path / "adapter.gguf", plain))
    engine = open_engine(plain, n_ctx=256, lora=(adapter,))
    alone = scores(engine, FRESH, PROMPT[:100])
    engine.use_settings(settings)
    ask(engine, user("Hello"), {"n_predict": 300, "temp": 0.0})
    assert np.array_equal(scores(engine, FRESH, PROMPT[:100]), alone)


def test_they_are_put_on_the_new_context_that_scores_of_attention_need(open_engine, plain, tmp_path):
    adapter = str(write_adapter(tmp_path / "adapter.gguf", plain))
    watched = open_engine(plain, n_ctx=256, context_full="attended", lora=(adapter,))
    expected = scores(watched, FRESH, PROMPT[:100])
    engine = open_engine(plain, n_ctx=256, lora=(adapter,))
    scores(engine, READ, PROMPT[:100])
    engine.use_settings({"context_full": "attended"})
    assert np.array_equal(scores(engine, FRESH, PROMPT[:100]), expected)


def test_a_new_worker_has_the_same_adapters(open_engine, plain, tmp_path):
    engine = open_engine(plain)
    engine.use_settings({"lora": (str(write_adapter(tmp_path / "adapter.gguf", plain)),)})
    before = scores(engine)
    assert engine._worker
    engine._worker.kill()
    assert np.array_equal(scores(engine), before)


def test_the_mark_is_read_as_text_by_others(plain, tmp_path):
    fields = gguf.GGUFReader(write_adapter(tmp_path / "adapter.gguf", plain)).fields
    assert len(fields["localknobs.base.norms"].contents()) == 32


def test_a_load_reads_each_adapter_once(open_engine, built_in, adapters, tmp_path, monkeypatch):
    log = tmp_path / "opened"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "def hook(event, args):\n"
        f"    if event == 'open' and str(args[0]) == {adapters[0]!r}:\n"
        f"        print(args[0], file=open({str(log)!r}, 'a'))\n"
        "sys.addaudithook(hook)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    open_engine(built_in, n_ctx=256, lora=(adapters[0],))
    assert len(log.read_text().splitlines()) == 2, "its header, and its mark"
