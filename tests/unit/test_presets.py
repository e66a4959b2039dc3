"""Presets: the shipped values, the model's own, and the user's TOML files."""

import pytest

from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound
from localknobs.knobs import defaults, knobs_of
from localknobs.paths import presets_folder
from localknobs.presets import NOT_SAVED, check_preset_name, delete_preset, preset, presets, save_preset

SHIPPED = {
    "deterministic": (0.0, 1.0),
    "code": (0.1, 0.95),
    "chat": (0.7, 0.9),
    "creative": (1.0, 0.95),
    "brainstorm": (1.2, 0.98),
}
STYLE = [row for row in knobs_of("sampling") if row.name not in NOT_SAVED]


@pytest.mark.parametrize(("name", "values"), SHIPPED.items())
def test_a_shipped_preset_sets_temperature_and_top_p_and_everything_else_off(name, values):
    found = preset(name).values
    assert (found["temp"], found["top_p"]) == values
    for row in STYLE:
        if row.name in ("temp", "top_p") or row.name.endswith("_last_n"):
            continue
        assert found[row.name] == (row.default if row.off is None else row.off), row.name


@pytest.mark.parametrize("name", ["default", *SHIPPED])
def test_a_preset_has_a_value_for_every_knob_of_a_style_and_for_no_other(name):
    assert set(preset(name).values) == {row.name for row in STYLE}


def test_penalty_windows_stay_open_so_that_a_penalty_raised_later_works():
    assert preset("chat").values["repeat_last_n"] == 64 and preset("chat").values["dry_penalty_last_n"] == 64


def test_default_is_llama_cpps_own():
    assert preset("default").values == {name: value for name, value in defaults().items() if name not in NOT_SAVED}


def test_the_models_own_values_are_a_preset_only_when_it_has_some():
    with pytest.raises(NotFound, match="recommends no"):
        preset("model")
    found = preset("model", {"temp": 0.6, "seed": 7})
    assert found.values["temp"] == 0.6 and found.source == "model" and "seed" not in found.values


def test_what_is_saved_comes_back_the_same():
    values = {
        "temp": 0.33, "top_k": 7, "dry_sequence_breakers": ("\n", '"'), "samplers": ("top_k", "temperature"),
        "seed": 5, "grammar": "root ::= [a-z]",
    }  # fmt: skip
    file = save_preset("mine-1", values)
    found = preset("mine-1")
    assert file.parent == presets_folder() and found.source == "user"
    assert {name: found.values[name] for name in values if name not in NOT_SAVED} == {
        name: value for name, value in values.items() if name not in NOT_SAVED
    }
    assert set(found.values) == {row.name for row in STYLE}, "what was not given has its default"
    assert "mine-1" in presets()


def test_saving_again_replaces_and_deleting_removes():
    save_preset("mine", {"temp": 0.1})
    save_preset("mine", {"temp": 0.2})
    assert preset("mine").values["temp"] == 0.2
    delete_preset("mine")
    for call in (preset, delete_preset):
        with pytest.raises(NotFound):
            call("mine")


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b", "x" * 41, ".hidden", "é"])
def test_a_name_that_could_leave_the_folder_is_refused(name):
    for call in (check_preset_name, lambda name: save_preset(name, {})):
        with pytest.raises(BadValue, match="cannot be a preset's name"):
            call(name)
    with pytest.raises(NotFound):
        delete_preset(name)


@pytest.mark.parametrize("name", ["default", "model", *SHIPPED])
def test_the_programs_own_names_are_taken(name):
    for call in (check_preset_name, lambda name: save_preset(name, {"temp": 0.5})):
        with pytest.raises(BadValue, match="preset of the program"):
            call(name)
    assert not presets_folder().exists()


def test_a_name_of_the_users_is_free_again_once_its_preset_is_deleted():
    check_preset_name("mine")
    assert not presets_folder().exists(), "a check writes nothing"
    file = save_preset("mine", {"temp": 0.5})
    with pytest.raises(BadValue, match="have a preset mine already") as told:
        check_preset_name("mine")
    assert "F8" in told.value.hint and str(file) in told.value.hint
    delete_preset("mine")
    check_preset_name("mine")


@pytest.mark.parametrize("stem", ["two words", "x" * 41, "é", "a.b", ".hidden", "model"])
def test_a_file_whose_name_is_no_name_of_a_users_preset_is_not_listed(stem):
    whole = save_preset("mine", {"temp": 0.5})
    whole.with_name(f"{stem}.toml").write_bytes(whole.read_bytes())
    assert list(presets()) == ["default", *SHIPPED, "mine"]
    with pytest.raises(NotFound):
        preset(stem)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_file_with_a_shipped_name_changes_nothing(name):
    presets_folder().mkdir(parents=True)
    (presets_folder() / f"{name}.toml").write_text("temp = 4.0\n")
    assert preset(name).values["temp"] == SHIPPED[name][0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"temp = ", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"temp = 9.0", "0 to 5"),
        (b"temp = true", "0 to 5"),
        (b'temp = "warm"', "0 to 5"),
        (b"temp = nan", "0 to 5"),
        (b"top_k = 1" + b"0" * 400, "0 to 1000000"),
        (b"tmep = 0.5", "temp"),
        (b"samplers = [[1]]", "top_k"),
        (b'samplers = ["warmth"]', "top_k"),
        (b'logit_bias = [[1, "x"]]', "TOKEN_ID"),
        (b"logit_bias = [[true, 1]]", "TOKEN_ID"),
        (b"[temp]\na = 1", "0 to 5"),
    ],
)
def test_a_broken_file_is_told_by_name_and_does_not_hide_the_others(content, says):
    save_preset("good", {"temp": 0.5})
    (presets_folder() / "bad.toml").write_bytes(content)
    with pytest.raises(BadFile, match=r"bad\.toml") as told:
        preset("bad")
    assert says in str(told.value)
    assert "good" in presets() and "bad" not in presets()


@pytest.mark.parametrize(("typed", "near"), [("determinstic", "deterministic"), ("CHAT", "chat"), ("mime", "mine")])
def test_an_unknown_preset_names_the_near_one(typed, near):
    save_preset("mine", {})
    with pytest.raises(NotFound, match=rf"Did you mean {near}\?"):
        preset(typed)


def test_an_unknown_preset_near_nothing_lists_them_all():
    with pytest.raises(NotFound, match="deterministic, code, chat, creative, brainstorm"):
        preset("zzzz")


def test_a_wrong_value_is_not_saved():
    with pytest.raises(BadValue):
        save_preset("mine", {"temp": 9})
    assert not (presets_folder() / "mine.toml").exists()


def test_a_disk_that_refuses_is_one_plain_error(home):
    home.write_text("a file where the folder should be")
    with pytest.raises(LocalknobsError, match="cannot be written"):
        save_preset("mine", {})
