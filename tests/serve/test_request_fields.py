"""Every sampling knob is a field of requests, under llama.cpp's names; nothing else is taken for one."""

import pytest

from localknobs.knobs import KNOBS, knobs_of
from localknobs.serve.fields import KNOB_NAMES, sampling_of
from localknobs.serve.refused import Refused

LLAMA_SERVER = (
    "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma", "xtc_probability",
    "xtc_threshold", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "mirostat",
    "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay", "grammar", "logit_bias", "seed", "stop",
    "samplers", "n_predict",
)  # fmt: skip
"""What llama-server's README lists of sampling, as of libllama 0.5."""


@pytest.mark.parametrize("name", LLAMA_SERVER)
def test_llama_servers_names_are_known(name):
    assert name in KNOB_NAMES


@pytest.mark.parametrize("row", knobs_of("sampling"), ids=lambda row: row.name)
def test_every_row_is_a_field_that_takes_its_own_default(row):
    default = list(row.default) if isinstance(row.default, tuple) else row.default
    assert sampling_of({row.name: default}, 1024) == ({row.name: row.default}, ())


def test_every_row_is_named_once():
    assert {row.name for row in KNOB_NAMES.values()} == {row.name for row in knobs_of("sampling")}
    assert "n" not in KNOB_NAMES and "r" not in KNOB_NAMES, "OpenAI's n is another thing than the flag -n"


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("repeat_last_n", -1, {"repeat_last_n": 4096}),
        ("dry_penalty_last_n", -1, {"dry_penalty_last_n": 4096}),
        ("top_k", -1, {"top_k": 0}),
        ("temperature", -1, {"temp": 0.0}),
        ("seed", 4294967295, {"seed": -1}),
        ("max_tokens", -1, {"n_predict": -1}),
        ("stop", "END", {"stop": ("END",)}),
        ("temperature", None, {}),
        ("logit_bias", {"5": -100, "6": False}, {"logit_bias": ((5, -100.0), (6, float("-inf")))}),
    ],
)
def test_what_other_servers_write_otherwise_means_the_same(field, value, meant):
    assert sampling_of({field: value}, 4096) == (meant, ())


@pytest.mark.parametrize(("name", "value"), [("tools", []), ("n", 1), ("tool_choice", "auto"), ("suffix", "")])
def test_what_changes_nothing_is_no_error(name, value):
    assert sampling_of({name: value}, 1024) == ({}, ())


def test_two_names_of_a_knob_must_agree():
    assert sampling_of({"temp": 0.5, "temperature": 0.5}, 1024)[0] == {"temp": 0.5}
    with pytest.raises(Refused, match="another value"):
        sampling_of({"temp": 0.5, "temperature": 0.6}, 1024)


def test_loading_knobs_are_no_fields():
    values, notes = sampling_of({"n_ctx": 4096, "context_full": "turns"}, 1024)
    assert values == {} and len(notes) == 2 and "n_ctx" in KNOBS
