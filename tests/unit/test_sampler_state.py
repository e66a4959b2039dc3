"""The sampling values in use: what the user chose survives, what nobody chose follows the model."""

import pytest

from localknobs.presets import preset
from localknobs.sampler_state import SamplerState

OWN = {"temp": 0.6, "top_k": 20}


def test_what_nobody_chose_follows_the_model():
    state = SamplerState()
    for recommended, name, temp in ((OWN, "model", 0.6), ({}, "default", 0.8), ({"temp": 0.3}, "model", 0.3)):
        state.with_model(recommended)
        assert (state.preset.name, state.values["temp"]) == (name, temp) and not state.changed


def test_default_chosen_by_name_survives_a_reload():
    state = SamplerState(OWN)
    state.use("default")
    state.with_model(OWN)
    assert state.preset.name == "default" and state.values["temp"] == 0.8


def test_default_chosen_at_the_start_survives_the_first_model():
    state = SamplerState(name="default")
    state.with_model(OWN)
    assert state.preset.name == "default" and state.values["top_k"] == 40


def test_a_knob_turned_and_turned_back_was_chosen():
    state = SamplerState()
    state.set("temp", 0.2)
    state.set("temp", 0.8)
    state.with_model(OWN)
    assert state.preset.name == "default" and state.values["temp"] == 0.8


def test_a_knob_of_one_run_is_no_choice_of_a_style():
    state = SamplerState()
    state.set("seed", 5)
    state.with_model(OWN)
    assert state.preset.name == "model" and state.values["seed"] == 5


def test_the_models_own_values_chosen_by_name_follow_the_model():
    state = SamplerState(OWN)
    state.use("code")
    state.use("model")
    for recommended, name in (({"temp": 0.3}, "model"), ({}, "default"), (OWN, "model")):
        state.with_model(recommended)
        assert state.preset.name == name and not state.changed


@pytest.mark.parametrize(("recommended", "name", "temp"), [({"temp": 0.3}, "model", 0.3), ({}, "default", 0.8)])
def test_turned_from_the_models_own_stays_and_a_reset_goes_to_the_new_models(recommended, name, temp):
    state = SamplerState(OWN)
    state.set("temp", 0.5)
    state.with_model(recommended)
    assert state.values["temp"] == 0.5 and state.values["top_k"] == 20 and state.changed
    assert state.preset.name == name and state.standard["temp"] == temp


def test_a_saved_preset_is_gone_on_from_and_survives_a_reload():
    state = SamplerState(OWN)
    state.save("mine")
    state.with_model({"temp": 0.3})
    assert state.preset == preset("mine") and state.values["temp"] == 0.6 and not state.changed
