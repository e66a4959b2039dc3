"""How a model is made to see a length: pure arithmetic over a header, and the rules for files that scale already."""

from __future__ import annotations

import math
import struct

import pytest
from gguf_files import F32, TEXT, U32, gguf_bytes, gguf_key

from localknobs.engine import LoadSettings
from localknobs.engine.checks import plan_context
from localknobs.engine.refusals import check_settings
from localknobs.engine.rope import rope_notes, rope_of_file, rope_of_load
from localknobs.engine.target_length import proposed_settings, target_length
from localknobs.errors import BadValue, Unsupported
from localknobs.gguf_info import read_header


@pytest.fixture
def model(tmp_path):
    def write(*keys, factors=()):
        path = tmp_path / "model.gguf"
        known = [
            gguf_key("general.architecture", TEXT, "llama"),
            gguf_key("llama.block_count", U32, 2),
            gguf_key("llama.context_length", U32, 4096),
            gguf_key("llama.embedding_length", U32, 256),
            gguf_key("llama.attention.head_count", U32, 4),
            gguf_key("llama.attention.head_count_kv", U32, 2),
        ]
        tensors = {"rope_freqs.weight": ((len(factors),), 0, 0)} if factors else {}
        path.write_bytes(gguf_bytes([*known, *keys], tensors, data=struct.pack(f"<{len(factors)}f", *factors)))
        return read_header(path)

    return write


def scaling(method, factor=4.0, original=1024):
    return [
        gguf_key("llama.rope.scaling.type", TEXT, method),
        gguf_key("llama.rope.scaling.factor", F32, factor),
        gguf_key("llama.rope.scaling.original_context_length", U32, original),
    ]


def test_within_the_trained_length_nothing_is_scaled(model):
    found = target_length(model(), 4096)
    assert found.proposed.name == "model" and dict(found.proposed.settings) == {"n_ctx": 4096} and not found.others
    assert "Nothing changes" in found.proposed.short_prompts


def test_beyond_it_yarn_is_proposed_with_a_factor_that_reaches_and_the_price(model):
    found = target_length(model(), 10_000, LoadSettings(model=model().path, cache_type_k="q8_0"))
    assert dict(found.proposed.settings) == {
        "n_ctx": 10_000, "rope_scaling": "yarn", "rope_scale": 2.5, "yarn_orig_ctx": 4096,
    }  # fmt: skip
    assert found.proposed.rope.window >= 10_000
    assert found.cache_bytes == 10_240 * 2 * 2 * 64 * (34 / 32 + 2)  # in steps of 256
    assert found.attention_work == pytest.approx((10_000 / 4096) ** 2)
    assert [way.name for way in found.others] == ["ntk", "linear"]
    assert found.proposed.left_alone > found.others[0].left_alone >= found.others[1].left_alone == 0


def test_what_it_does_to_short_prompts_is_in_the_speeds(model):
    trained = rope_of_file(model()).speeds()
    found = target_length(model(), 16_384)
    speeds = {way.name: way.rope.speeds() for way in (found.proposed, *found.others)}
    assert speeds["linear"] == pytest.approx([speed / 4 for speed in trained])
    assert speeds["yarn"][0] == trained[0] and speeds["yarn"][-1] == pytest.approx(trained[-1] / 4)
    assert speeds["ntk"][0] == trained[0] and speeds["ntk"][-1] == pytest.approx(trained[-1] / 4, rel=1e-4)
    assert found.proposed.rope.attention == pytest.approx(1 + 0.1 * math.log(4))


def test_a_factor_far_beyond_what_models_bear_and_too_little_memory_are_said(model):
    notes = target_length(model(), 131_072, free_bytes=1000).notes
    assert any("factor of 32" in note for note in notes) and any("free memory" in note for note in notes)


@pytest.mark.parametrize("tokens", [0, -5, 99_999_999_999])
def test_no_length_is_refused(model, tokens):
    with pytest.raises(BadValue, match="no length"):
        target_length(model(), tokens)


def test_a_file_that_scales_by_yarn_keeps_its_original_length_and_is_replaced_not_multiplied(model):
    header = model(*scaling("yarn"))
    own = rope_of_file(header)
    assert (own.method, own.factor, own.original, own.window) == ("yarn", 4, 1024, 4096)
    found = target_length(header, 8192)
    assert found.proposed.settings["rope_scale"] == 8 and found.proposed.settings["yarn_orig_ctx"] == 1024
    assert any("replaced" in note for note in found.notes)
    settings = LoadSettings(model=header.path, rope_scaling="yarn", rope_scale=2.0)
    assert rope_of_load(header, settings).factor == 2  # llama.cpp: the user's, not 4 x 2
    assert "not multiplied" in rope_notes(header, settings)[0]


def test_factors_of_the_file_compound_and_that_is_said(model):
    header = model(factors=[1.0] * 16 + [8.0] * 16)
    assert rope_of_file(header).speeds()[-1] == pytest.approx(10_000 ** (-62 / 64) / 8)
    assert "on top" in rope_notes(header, LoadSettings(model=header.path, rope_scale=2.0))[0]
    assert any("on top" in note for note in target_length(header, 8192).notes)
    assert not rope_notes(header, LoadSettings(model=header.path))


def test_a_second_scaling_of_longrope_is_refused(model):
    header = model(*scaling("longrope", 1.0))
    for knobs in ({"rope_scale": 2.0}, {"rope_scaling": "yarn"}, {"rope_freq_scale": 0.5}):
        with pytest.raises(Unsupported, match="compound"):
            check_settings(header, LoadSettings(model=header.path, **knobs))
    with pytest.raises(Unsupported, match="compound"):
        target_length(header, 8192)


def test_a_file_that_says_none_still_takes_a_bare_factor(model):
    header = model(*scaling("none"))
    assert rope_of_file(header).factor == 1
    made = rope_of_load(header, LoadSettings(model=header.path, rope_scale=4.0))
    assert (made.method, made.factor) == ("linear", 4)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"yarn_beta_fast": 16.0}, "without effect"),
        ({"rope_scaling": "yarn", "rope_scale": 4.0, "yarn_attn_factor": 2.0}, "without effect"),
        ({"rope_scaling": "yarn"}, "scales nothing"),
    ],
)
def test_a_knob_without_effect_is_said(model, knobs, says):
    header = model()
    assert says in " ".join(rope_notes(header, LoadSettings(model=header.path, **knobs)))


def test_the_context_follows_the_scaling(model):
    header = model()
    scaled = LoadSettings(model=header.path, rope_scaling="yarn", rope_scale=4.0)
    assert plan_context(header, scaled).size == 16_384
    assert not plan_context(header, LoadSettings(model=header.path, rope_scale=2.0, n_ctx=8192)).notes
    (note,) = plan_context(header, LoadSettings(model=header.path, n_ctx=8192)).notes
    assert "--target-ctx 8192" in note


def test_a_length_beside_rope_flags_is_refused_by_their_names(model):
    path = model().path
    assert proposed_settings(LoadSettings(model=path), 8192).rope_scale == 2
    with pytest.raises(BadValue, match="--rope-scale"):
        proposed_settings(LoadSettings(model=path, rope_scale=2.0), 8192)


def test_a_mixed_yarn_ramp_is_that_of_ggml(model):
    """The pairs at which the ramp begins and ends, as ggml_rope_yarn_corr_dims computes them."""
    header = model()
    rope = rope_of_load(header, LoadSettings(model=header.path, rope_scaling="yarn", rope_scale=4.0))
    corner = [64 * math.log(4096 / (turns * 2 * math.pi)) / (2 * math.log(10_000)) for turns in (32, 1)]
    low, high = math.floor(corner[0]), math.ceil(corner[1])
    trained, made = rope_of_file(header).speeds(), rope.speeds()
    assert made[low] == trained[low] and made[low + 1] < trained[low + 1]
    assert made[high] == pytest.approx(trained[high] / 4) and made[high - 1] > trained[high - 1] / 4
