"""Examples are read in the forms people have, and a wrong line is named."""

import json

import pytest

from localknobs.errors import BadFile, NotFound
from localknobs.tune.examples import SHIPPED, read_examples, shipped_examples, split

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def written(folder, *lines, name="data.jsonl"):
    file = folder / name
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ({"messages": TURNS}, (("user", "a"), ("assistant", "b"))),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            (("user", "a"), ("assistant", "b")),
        ),
        ({"prompt": "a", "completion": "b"}, (("user", "a"), ("assistant", "b"))),
        ({"instruction": "a", "input": "x", "output": "b"}, (("user", "a\n\nx"), ("assistant", "b"))),
        (
            {"system": "s", "question": "a", "answer": "b"},
            (("system", "s"), ("user", "a"), ("assistant", "b")),
        ),
        ({"text": "a b"}, (("", "a b"),)),
    ],
)  # fmt: skip
def test_forms_of_a_line(tmp_path, line, messages):
    (example,) = read_examples(written(tmp_path, line))
    assert example.messages == messages
    assert example.kind == ("text" if "text" in line else "chat")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"foo": 1}, "but foo"),
        ({"prompt": "a", "completion": ""}, "the assistant's text"),
        ({"completion": "b"}, "the user's text"),
        ({"messages": []}, "not a list of messages"),
        ({"messages": ["a"]}, "message 1 is not an object"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "the role 'boss'"),
        ({"messages": TURNS[:1]}, "no answer to learn"),
        ({"text": 3}, "not a text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    with pytest.raises(BadFile, match="Line 3 of .*") as raised:
        read_examples(written(tmp_path, {"messages": TURNS}, "", line))
    assert said in raised.value.message and raised.value.hint


def test_files_that_are_no_examples(tmp_path):
    with pytest.raises(NotFound):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(BadFile, match="no examples"):
        read_examples(written(tmp_path, ""))
    with pytest.raises(BadFile, match="one JSON list"):
        read_examples(written(tmp_path, '[{"prompt":'))
    with pytest.raises(BadFile, match="is empty"):
        read_examples(written(tmp_path, " ", name="a.txt"))
    binary = tmp_path / "b.jsonl"
    binary.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(BadFile, match="UTF-8"):
        read_examples(binary)


def test_a_plain_text_is_one_example(tmp_path):
    (example,) = read_examples(written(tmp_path, "one", "two", name="book.txt"))
    assert example.kind == "text" and example.messages == (("", "one\ntwo\n"),)


def test_the_split_is_by_hash(tmp_path):
    lines = [{"prompt": f"q{number}", "completion": "a"} for number in range(400)]
    examples = read_examples(written(tmp_path, *lines))
    learn, held_out = split(examples, 0.1)
    assert len(learn) + len(held_out) == 400 and 20 <= len(held_out) <= 65
    more = read_examples(written(tmp_path, {"prompt": "new", "completion": "a"}, *lines))
    assert {example.key for example in held_out} <= {example.key for example in split(more, 0.1)[1]}
    doubled = split([*examples, *examples], 0.1)
    assert not {example.key for example in doubled[0]} & {example.key for example in doubled[1]}
    assert split(examples, 0.0)[1] == []


def test_the_shipped_sets_share_no_question_with_their_held_out_part():
    for name in SHIPPED:
        learn = read_examples(shipped_examples(name))
        held_out = read_examples(shipped_examples(name, "-held-out"))
        assert len(learn) >= 1000 and len(held_out) >= 100
        assert not {example.messages[0] for example in learn} & {example.messages[0] for example in held_out}
