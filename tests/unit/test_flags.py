"""Flags made from rows, and complaints that say what to type instead."""

import pytest

from localknobs.flags import Parser, add_knob_flags, chosen
from localknobs.knobs import KNOBS, flag_words, knobs_of


@pytest.fixture
def parse(capsys):
    parser = Parser("localknobs chat")
    parser.add_argument("model", nargs="?")
    add_knob_flags(parser, "sampling")
    add_knob_flags(parser, "loading")

    def parse(*arguments: str) -> dict[str, object]:
        options = parser.parse_args(list(arguments))
        return {**chosen(options, "sampling"), **chosen(options, "loading")}

    return parse


EXAMPLES = {
    "float": ("0.5", 0.5),
    "int": ("2", 2),
    "text": ("root ::= [a]", "root ::= [a]"),
    "bias": ("5-1", ((5, -1.0),)),
}
BY_NAME = {
    "dry_base": ("2.5", 2.5),
    "n_batch": ("64", 64),
    "sliding_window": ("64", 64),
    "rope_freq_base": ("1e6", 1e6),
    "n_ubatch": ("64", 64),
    "samplers": ("top_k;min_p", ("top_k", "min_p")),
}


@pytest.mark.parametrize(
    ("flag", "row"), [(flag, row) for row in KNOBS.values() for flag in row.flags], ids=lambda value: str(value)[:24]
)
def test_every_spelling_of_every_knob_is_read(parse, flag, row):
    if row.is_switch:
        assert parse(flag, "model-behind-a-switch") == {row.name: "on"}
        return
    if row.words:
        assert parse(flag, "1", "2") == {row.name: "1 2"}
        return
    choice = (row.choices[-1].upper(), row.choices[-1]) if row.kind == "choice" else None
    typed, value = BY_NAME.get(row.name) or choice or EXAMPLES.get(row.kind) or ("END", ("END",))
    assert parse(flag, typed) == {row.name: value}


def test_texts_of_a_flag_that_is_given_again_add_up(parse):
    assert parse("--lora", "a.gguf", "--lora-scaled", "b.gguf:0.5", "-r", '["x", "y"]', "-r", "z") == {
        "lora": ("a.gguf", "b.gguf:0.5"), "stop": ("x", "y", "z"),
    }  # fmt: skip


def test_the_words_of_values_are_read_as_those_values(parse):
    values = {
        "lora": ("a.gguf", "b.gguf:0.5"), "control_vector_layers": "2 3", "stop": ("[x", "y"), "threads": 3,
        "lora_any_base": "on", "swa_full": "off",
    }  # fmt: skip
    assert parse(*flag_words(values)) == {name: value for name, value in values.items() if name != "swa_full"}


def test_what_was_not_given_is_not_there(parse):
    assert parse() == {}


@pytest.mark.parametrize("row", [row for row in knobs_of("sampling") if row.is_number], ids=lambda row: row.name)
def test_a_value_outside_its_range_names_flag_and_range_in_one_line(parse, capsys, row):
    with pytest.raises(SystemExit) as left:
        parse(f"{row.flags[0]}=99999999999")
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert row.flags[0] in line and row.range_text().split(",")[0] in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tmep", "1"), "Did you mean --temp?"),
        (("--top_k=3",), "Did you mean --top-k?"),
        (("--temp",), "--temp"),
        (("--zzzzzzzzz",), "localknobs chat --help"),
        (("--temp", "warm"), "0 to 5"),
        (("a", "b"), "b"),
        (("--tem", "1"), "Did you mean --temp?"),
    ],
)
def test_a_slip_is_one_line_that_says_what_to_type(parse, capsys, arguments, says):
    with pytest.raises(SystemExit) as left:
        parse(*arguments)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
