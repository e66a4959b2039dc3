"""Where llama.cpp is silent: sizes it changes, a cache without room, tokens it refuses, knobs it would not take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from localknobs.errors import BadValue, ContextFull


@pytest.fixture(scope="module")
def found(random_model: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("decode_codes.py")
    done = subprocess.run([sys.executable, str(script), str(random_model)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("asked", ["large", "small"])
def test_sizes_are_those_the_context_really_has(found, asked):
    """llama.cpp pads a context and cuts a batch in silence."""
    one = found[asked]
    assert one["context"] == one["real_context"] == one["capacity"] >= one["asked"] == 100
    assert one["batch"] == one["real_batch"] == one["room"] <= one["context"]
    assert asked == "large" or one["batch"] == 48


def test_an_answer_fills_the_context_that_is_there(open_engine, endless_model):
    engine = open_engine(endless_model, n_ctx=100, n_batch=4096)
    assert engine.info.context_size >= 100
    *_, last = engine.stream("a", {"n_predict": -1, "temp": 0.0})
    assert last.reason == "context" and last.stats.context_used == engine.info.context_size
    with pytest.raises(ContextFull, match=f"{engine.info.context_size:,}"):
        list(engine.stream("a" * 2 * engine.info.context_size))


def test_a_cache_without_a_slot_is_an_error_that_leaves_it_usable(found):
    context = found["large"]["context"]
    assert found["full"] == {"code": 1, "held": context, "in model": context}
    kind, text = found["full error"]
    assert kind == "ContextFull" and "no room" in text
    assert found["after full"] == {"held": 0, "in model": 0} and found["after full is right"]


def test_a_batch_that_llama_cpp_refuses_is_an_error_that_leaves_the_cache_usable(found):
    assert found["no such token"] == {"code": -1, "held": 3}
    kind, text = found["no such token error"]
    assert kind == "LocalknobsError" and "(code -1)" in text
    assert found["after no such token is right"]
    assert found["a gap"] == found["backwards"] == -1 and found["held after them"] == 3


def test_what_landed_of_an_aborted_batch_is_counted_by_the_model(found):
    assert found["aborted"] == 2 and found["landed"]["asked"]
    held = found["landed"]["held"]
    assert held == found["landed"]["in model"] and held % 16 == 0 and 0 < held < 64
    assert found["after an abort is right"]


def test_a_callback_that_fails_leaves_the_numbers_of_its_own_call(found):
    """One that raised would end the computation, and the logits would be those of the call before."""
    assert found["failed watching"] == found["watched"] and "not callable" in found["failure"]


def test_a_knob_of_the_load_is_not_taken_for_a_context_that_is_there(open_engine, random_model):
    """Keys in the cache are rotated already: another base or factor would answer from half of each."""
    engine = open_engine(random_model)
    for name, value in (("rope_freq_base", 50_000.0), ("rope_scale", 2.0), ("rope_scaling", "yarn"), ("n_ctx", 512)):
        before = engine.settings
        with pytest.raises(BadValue, match="is set when the model is loaded"):
            engine.use_settings({name: value})
        assert engine.settings == before
