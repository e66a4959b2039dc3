"""Tasks: files with faults, judging, answers and log-probabilities of real models, needles."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from evaluations import config_of, measure, raw_logits
from random_model import TURN_END, byte_tokens, nudged, write_random_model, write_scripted_model, written_tokens

from localknobs.errors import BadFile, BadValue, ContextFull, NotFound
from localknobs.evaluate.config import SHIPPED
from localknobs.evaluate.haystack import is_said
from localknobs.evaluate.run import plan_eval
from localknobs.evaluate.tasks import is_right, read_suite


def suite(folder, *lines):
    file = folder / "mine.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        ({"prompt": "a"}, "it does not say what is right"),
        ({"answer": "a"}, "neither `prompt` nor `messages`"),
        ({"prompt": "a", "answer": "b", "promt": 1}, "unknown key 'promt'"),
        ({"prompt": "", "answer": "b"}, "a message is not a text"),
        ({"prompt": "a", "choices": ["x"], "answer": 0}, "not a list of two texts"),
        ({"prompt": "a", "choices": ["x", "y"], "answer": "z"}, "none of its choices"),
        ({"prompt": "a", "choices": ["x", "y"], "answer": True}, "none of its choices"),
        ({"prompt": "a", "regex": "("}, "`regex` is no pattern"),
        ({"prompt": "a", "schema": {"type": "nothing"}}, "`schema` is no JSON schema"),
        ({"prompt": "a", "answer": "b", "max_tokens": 0}, "`max_tokens` is not a number"),
        ({"messages": [{"role": "assistant", "content": "x"}], "answer": "b"}, "not the user's"),
        ({"messages": 3, "answer": "b"}, "not a list of role and content"),
        ({"prompt": "a", "raw": True, "system": "s", "answer": "b"}, "a raw prompt has one text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    good = {"prompt": "a", "answer": "b"}
    with pytest.raises(BadFile) as found:
        read_suite(suite(tmp_path, good, "", line, good))
    assert f"Line 3 of {tmp_path / 'mine.jsonl'} is no task" in str(found.value) and said in str(found.value)


def test_an_empty_or_missing_file_is_told(tmp_path):
    with pytest.raises(BadFile, match="has no tasks"):
        read_suite(suite(tmp_path, ""))
    with pytest.raises(NotFound):
        read_suite(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ({"answer": "New York"}, " new  york. ", "New York City"),
        ({"answer": ["4", "four"]}, "Four", "14"),
        ({"regex": ["a+b", "c$"]}, "xAAb\nc", "aab"),
        ({"schema": {"type": "object", "required": ["a"]}}, '```json\n{"a": 1}\n```', '{"b": 1}'),
        ({"schema": {"type": "array"}, "answer": [1, 2]}, "[1, 2]", "[2, 1]"),
        ({"schema": {}}, "3", "three"),
    ],
)
def test_answers_are_judged_by_their_rule(tmp_path, rule, right, wrong):
    (item,) = read_suite(suite(tmp_path, {"prompt": "?", **rule}))
    assert is_right(item, {"text": right}) and not is_right(item, {"text": wrong})


def test_every_shipped_suite_is_whole():
    for name in SHIPPED:
        items = read_suite(name)
        assert len({item.key for item in items}) == len(items) >= 16, name
    arithmetic = read_suite("arithmetic")
    assert is_right(arithmetic[0], {"text": "33 + 97 = 130."}) and not is_right(arithmetic[0], {"text": "1300"})


def test_the_built_in_models_own_questions_are_those_of_its_corpus(monkeypatch):
    from repository import REPOSITORY

    monkeypatch.syspath_prepend(str(REPOSITORY / "models" / "recipe"))
    from suite import SUITE, suite_text

    assert SUITE.read_text(encoding="utf-8") == suite_text(), "run python models/recipe/suite.py"


def test_a_written_answer_is_the_likeliest_one(tmp_path):
    model = write_scripted_model(tmp_path / "model.gguf", [*byte_tokens("\n"), *written_tokens(b"42 cats"), TURN_END])
    file = suite(
        tmp_path, {"prompt": "How many?", "answer": "42 cats"}, {"prompt": "How many?!", "regex": "dogs", "group": "b"},
        {"prompt": "x\n", "raw": True, "answer": "42", "max_tokens": 2},
    )  # fmt: skip
    (result,) = measure([model], suites=("tasks",), tasks=(file,)).models
    (found,) = result.tasks
    assert (found.share.right, found.share.count) == (2, 3) and result.perplexity is None
    assert dict(found.groups)["b"].right == 0


def test_choices_are_scored_by_their_log_probability(tmp_path):
    model = write_random_model(tmp_path / "model.gguf")
    prompt, choices = "abcdefghijklmnop", ["qrs", "!tuv"]
    file = suite(tmp_path, {"prompt": prompt, "raw": True, "choices": choices, "answer": 0})
    records = []
    report = measure([model], suites=("tasks",), tasks=(file,), on_event=records.append)
    expected = []
    for choice in (" qrs", "!tuv"):
        text = tmp_path / "text.txt"
        text.write_text(prompt + choice, encoding="utf-8")
        size = 1 + len(byte_tokens(prompt + choice))
        logits, tokens = raw_logits(model, text, size, tmp_path)
        logs = logits[0].astype(np.float64)
        logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
        begin = 1 + len(byte_tokens(prompt))
        expected.append(sum(logs[at - 1, tokens[0, at]] for at in range(begin, size)))
    (found,) = report.models[0].tasks
    (stored,) = [json.loads(line) for line in _journals(tmp_path) if '"scores"' in line]
    assert stored["scores"] == pytest.approx(expected, abs=2e-3)
    assert found.share.right == int(expected[0] > expected[1])
    assert found.by_length is not None


def _journals(_folder):
    from localknobs.evaluate.store import evaluations_folder

    return [line for file in evaluations_folder().glob("*.jsonl") for line in file.read_text("utf-8").splitlines()]


def test_a_question_that_does_not_fit_says_how_much_it_takes(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", context=256)
    file = suite(tmp_path, {"prompt": "x" * 400, "answer": "b"})
    with pytest.raises(ContextFull, match=r"take \d+ tokens for model, and its context has 256. Give it more: -c 512"):
        measure([model], suites=("tasks",), tasks=(file,))


def test_changed_answers_are_paired_with_the_parents(tmp_path):
    base = write_scripted_model(tmp_path / "base.gguf", [*byte_tokens("\n"), *written_tokens(b"yes"), TURN_END])
    child = write_scripted_model(tmp_path / "child.gguf", [*byte_tokens("\n"), *written_tokens(b"no"), TURN_END])
    file = suite(tmp_path, *({"prompt": f"{number}?", "answer": "yes"} for number in range(6)))
    _, found = measure([child], base, suites=("tasks",), tasks=(file,)).models
    pairs = found.tasks[0].paired
    assert (pairs.lost, pairs.gained, pairs.p_value) == (6, 0, pytest.approx(2 / 2**6))


def test_forgetting_compares_general_text_and_tasks(tmp_path):
    base = write_random_model(tmp_path / "base.gguf", context=2048)
    _, found = measure([nudged(base, tmp_path / "child.gguf", 0.3)], base, suites=("forgetting",), chunk_tokens=256,
                       minutes=0.05).models  # fmt: skip
    assert found.forgetting.divergence.mean.value > 0 and found.forgetting.share.count > 0
    assert "General text" in found.forgetting.verdict or "No change" in found.forgetting.verdict
    assert found.perplexity is None


def test_needles_stand_at_their_depth_in_a_text_of_that_length(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", context=1024)
    fields = dict(suites=("needle",), needle_lengths=(400, 800), needle_depths=3, needles=2, needle_others=2)
    report = measure([model], **fields)
    found = report.models[0].needle
    assert [(cell.length, cell.depth) for cell in found.cells] == [
        (400, 0.0), (400, 0.5), (400, 1.0), (800, 0.0), (800, 0.5), (800, 1.0),
    ]  # fmt: skip
    assert all(cell.share.count == 2 and cell.log_probability < -5 for cell in found.cells)
    assert found.share.right == 0  # five digits by chance
    assert len({cell["seed"] for cell in plan_eval(config_of([model], **fields)).needle_cells}) == 12


def test_the_built_in_model_finds_needles(built_in):
    report = measure([built_in], suites=("needle",), needle_lengths=(200,), needle_depths=2, needles=2)
    assert report.models[0].needle.share.right == 4


def test_needles_are_found_in_what_the_model_writes(built_in, tmp_path):
    fields = dict(suites=("needle",), needle_lengths=(200, 300), needle_depths=2, needles=2, needle_mode="generate")
    found = measure([built_in], **fields).models[0].needle
    assert found.mode == "generate" and found.share.count == 8 and found.share.right >= 6
    assert all(math.isnan(cell.log_probability) for cell in found.cells)
    scored = measure([built_in], **{**fields, "needle_mode": "logprob"}).models[0].needle
    assert scored.mode == "logprob" and all(cell.log_probability < 0 for cell in scored.cells), "kept apart"
    chance = write_random_model(tmp_path / "model.gguf", context=512)
    assert measure([chance], **fields).models[0].needle.share.right == 0


def test_a_written_needle_is_the_number_itself():
    assert is_said("12345", "It is 12345.") and is_said("12345", "12345")
    assert not is_said("12345", "It is 123456.") and not is_said("12345", "912345") and not is_said("12345", "12 345")


def test_the_longest_written_needle_leaves_room_for_the_answer(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", context=512)
    fields = dict(suites=("needle",), needle_depths=1, needles=1, needle_lengths=(), needle_mode="generate")
    cells = plan_eval(config_of([model], **fields)).needle_cells
    assert max(cell["length"] for cell in cells) == 512 - 16 - 48
    assert measure([model], **{**fields, "needle_lengths": (448,)}).models[0].needle.share.count == 1
    with pytest.raises(BadValue, match="no needle mode 'guess'"):
        plan_eval(config_of([model], **{**fields, "needle_mode": "guess"}))


def test_perplexity_by_place_covers_the_whole_context(tmp_path):
    base = write_random_model(tmp_path / "base.gguf")
    child = nudged(base, tmp_path / "child.gguf", 0.1)
    _, found = measure([child], base, suites=("position",), position_tokens=128, chunks=3).models
    assert found.position[0].begin == 1 and found.position[-1].end == 128
    assert all(bucket.divergence.value > 0 and math.isfinite(bucket.perplexity.error) for bucket in found.position)
