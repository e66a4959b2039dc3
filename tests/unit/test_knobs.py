"""The knob rows and the checks that read them."""

import pytest

from localknobs import knobs
from localknobs.errors import BadValue, NotFound

ROWS = list(knobs.KNOBS.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_default_is_allowed_and_survives_being_typed(row):
    assert row.check(row.default) == row.default
    assert row.parse(row.show(row.default)) == row.default


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_says_what_it_does_what_it_costs_and_where_it_is_from(row):
    assert row.help.endswith(".") and row.cost and row.source and row.flags


def test_no_two_rows_share_a_flag():
    flags = [flag for row in ROWS for flag in row.flags]
    assert len(flags) == len(set(flags))


def test_value_out_of_range_names_the_range():
    with pytest.raises(BadValue, match="0 to 5"):
        knobs.parse_value("temp", "9")


@pytest.mark.parametrize("text", ["", "warm", "nan", "inf", "1,5", "0x10"])
def test_what_is_not_a_number_is_refused(text):
    with pytest.raises(BadValue):
        knobs.parse_value("temp", text)


def test_a_special_value_outside_the_range_is_allowed_and_its_neighbour_is_not():
    assert knobs.parse_value("seed", "-1") == -1
    with pytest.raises(BadValue):
        knobs.parse_value("seed", "-2")


def test_a_whole_number_is_not_a_float_and_true_is_no_number():
    assert knobs.check_value("top_k", 40.0) == 40 and isinstance(knobs.check_value("top_k", 40.0), int)
    with pytest.raises(BadValue):
        knobs.check_value("top_k", 40.5)
    with pytest.raises(BadValue):
        knobs.check_value("top_k", True)


def test_unknown_name_gives_the_near_one():
    with pytest.raises(NotFound, match="temp"):
        knobs.knob("tmep")


@pytest.mark.parametrize("name", ["--top-k", "top-k", "top_k", "TOP_K"])
def test_a_knob_is_found_by_name_and_by_flag(name):
    assert knobs.knob(name).name == "top_k"


def test_sampler_order_takes_known_names_once():
    assert knobs.parse_value("samplers", "temperature;top_k") == ("temperature", "top_k")
    for text in ("temperature;temperature", "warmth"):
        with pytest.raises(BadValue):
            knobs.parse_value("samplers", text)


def test_logit_bias_is_read_in_llama_cpps_form():
    assert knobs.parse_value("logit_bias", "15043+1, 29871-inf") == ((15043, 1.0), (29871, float("-inf")))
    with pytest.raises(BadValue):
        knobs.parse_value("logit_bias", "hello+1")


def test_stop_strings_one_or_several():
    assert knobs.parse_value("stop", "END") == ("END",)
    assert knobs.parse_value("stop", '["a", "b"]') == ("a", "b")
    assert knobs.parse_value("stop", "[not json") == ("[not json",)
    with pytest.raises(BadValue):
        knobs.check_value("stop", [""])
