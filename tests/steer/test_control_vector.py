"""Control vectors made with the real engine: what is in the file, what it does, and what is refused."""

from __future__ import annotations

import importlib.util
import json

import gguf
import numpy as np
import pytest
from random_model import write_random_model, write_recurrent_model
from repository import REPOSITORY
from steering import CHATML, KNOWN, UNKNOWN, make

from localknobs.cli.main import run as localknobs
from localknobs.errors import BadFile, BadValue, NotFound, Unsupported
from localknobs.jobs import Advanced, Wrote, drain
from localknobs.ledger import read_card
from localknobs.steer.directions import direction_of
from localknobs.steer.effect import EffectConfig, compiled, effect_of, measure_effect
from localknobs.steer.make import VectorConfig, make_vector, plan_vector
from localknobs.steer.prompts import read_prompts, shipped_prompts, unescaped


def directions(path) -> np.ndarray:
    found = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    return np.stack([found[f"direction.{layer}"] for layer in range(1, len(found) + 1)])


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def run(*words: object) -> int:
    return localknobs([str(word) for word in words])


def test_the_file_holds_the_component_of_the_raw_states_as_llama_cpp_names_it(built_in, lists, states_of, tmp_path):
    layers = make(built_in, lists, tmp_path / "v.gguf", chat=True, normalize="unit")
    more, _ = states_of(built_in, [CHATML.format(text) for text in UNKNOWN])
    less, _ = states_of(built_in, [CHATML.format(text) for text in KNOWN])
    found = directions(tmp_path / "v.gguf")
    assert found.shape == (5, 256) and np.linalg.norm(found, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    for layer in range(1, 6):
        rows = more[:, layer] - less[:, layer]
        expected = np.linalg.svd(rows.astype(np.float64), full_matrices=False)[2][0]
        assert abs(float(expected @ found[layer - 1])) > 0.9999
        assert float(rows.mean(axis=0) @ found[layer - 1]) == pytest.approx(layers[layer - 1].apart, rel=1e-3) and (
            layers[layer - 1].apart > 0
        )
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 5


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs the extra train")
def test_transformers_has_the_same_states_and_directions(built_in, vector, states_of):
    import torch
    from transformers import AutoModelForCausalLM

    ours, tokens = states_of(built_in, [CHATML.format(text) for text in [*UNKNOWN, *KNOWN]])
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(REPOSITORY / "models" / "checkpoint", dtype=torch.float32)
    states = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _module, _given, out: states.append(out))
    rows = []
    for one in tokens:
        states.clear()
        with torch.no_grad():
            model(torch.tensor([one]))
        rows.append(np.stack([state[0, -1].numpy() for state in states]))
    theirs = np.stack(rows)
    assert ((unit(ours) * unit(theirs)).sum(axis=2) > 0.9999).all()
    differences = theirs[:4] - theirs[4:]
    for layer, direction in enumerate(unit(directions(vector)), 1):
        found = direction_of(layer, differences[:, layer], 1.0, "pca").unit
        assert found @ direction > 0.999, layer
        mean = direction_of(layer, (ours[:4] - ours[4:])[:, layer], 1.0, "mean").unit
        assert mean @ unit(differences[:, layer].mean(axis=0)) > 0.999, layer


def test_on_the_model_it_moves_the_states_along_itself_by_its_scale(built_in, vector, states_of):
    prompts = [CHATML.format("what is the height of a tree")]
    plain, _ = states_of(built_in, prompts)
    added = directions(vector)
    for scale in (-1.0, 2.0):
        moved = states_of(built_in, prompts, vectors=(f"{vector}:{scale}",))[0] - plain
        assert np.abs(moved[0, 0]).max() == 0  # llama.cpp has no room for layer 0
        assert moved[0, 1] == pytest.approx(scale * added[0], abs=2e-3)  # layer 1 is direction.1, to the rounding
        along = (moved[0, 1:] * unit(added)).sum(axis=1)
        assert (np.sign(along) == np.sign(scale)).all()
    third = states_of(built_in, prompts, vectors=(f"{vector}:2",), layers="3 3")[0] - plain
    assert np.abs(third[0, :3]).max() == 0 and third[0, 3] == pytest.approx(2 * added[2], abs=2e-3)


def test_a_model_whose_layers_are_not_seen_is_refused(built_in, states_of):
    with pytest.raises(AssertionError, match="no tensor l_out-6"):
        states_of(built_in, [CHATML.format("hello")], missing=1)


def test_it_steers_what_the_built_in_model_knows(built_in, vector, tmp_path):
    asked = tmp_path / "asked.txt"
    asked.write_text("\n".join(read_prompts(shipped_prompts("known"))[:4]))
    job = measure_effect(EffectConfig(
        model=built_in, vector=vector, prompts=(asked,), scales=(2.0,), pattern="not know", chat=True,
        answer_tokens=12, threads=1,
    ))  # fmt: skip
    alone, steered = drain(job)
    assert (alone.scale, steered.scale) == (0, 2) and alone.prompts == "asked"
    assert alone.matching == alone.changed == 0 and steered.matching >= 3 and steered.changed == 4


def test_effects_are_counted_prompt_by_prompt():
    plain, answers = [("a", 3), ("b", 5), ("c", 4)], [("I do NOT know", 5), ("b", 5), ("d", 9)]
    found = effect_of("list", 1.0, answers, plain, compiled("not know"))
    assert (found.matching, found.changed, found.answers) == (1, 2, 3)
    assert found.longer == pytest.approx(7 / 3) and found.tokens == pytest.approx(19 / 3)
    assert found.longer_interval[0] < 7 / 3 < found.longer_interval[1]
    assert effect_of("list", 1.0, answers, plain, None).matching == 0


def test_a_recurrent_model_is_steered_too_but_not_one_of_a_single_layer(lists, states_of, tmp_path):
    model = write_recurrent_model(tmp_path / "recurrent.gguf", layers=3)
    make(model, lists, tmp_path / "v.gguf", normalize="unit")
    prompts = ["abc"]
    moved = states_of(model, prompts, vectors=(f"{tmp_path / 'v.gguf'}:5",))[0] - states_of(model, prompts)[0]
    assert moved[0, 1] == pytest.approx(5 * directions(tmp_path / "v.gguf")[0], abs=2e-3)
    with pytest.raises(Unsupported, match="has 1 layer"):
        make(write_recurrent_model(tmp_path / "single.gguf"), lists, tmp_path / "w.gguf")


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_a_stopped_job_leaves_nothing(built_in, lists, tmp_path, stop_after):
    output = tmp_path / "out" / "v.gguf"
    job = make_vector(plan_vector(VectorConfig(
        model=built_in, positive=lists[0], negative=lists[1], output=output, threads=1
    )))  # fmt: skip
    for _ in range(stop_after):
        next(job)
    job.close()
    assert list(output.parent.glob("*")) == [] and list(output.parent.glob(".*")) == []


def test_progress_is_every_prompts_tokens(built_in, lists, tmp_path):
    events = []
    config = VectorConfig(model=built_in, positive=lists[0], negative=lists[1], output=tmp_path / "v.gguf", threads=1)
    drain(make_vector(plan_vector(config)), events.append)
    started = [event for event in events if getattr(event, "total", 0)]
    assert sum(event.amount for event in events if isinstance(event, Advanced)) == started[0].total > 8
    assert events[-1] == Wrote(tmp_path / "v.gguf")


REFUSED = {
    "unequal": ("a\nb\n", "c\n", BadValue, "more.txt holds 2 prompts and .*less.txt 1"),
    "empty": ("\n \n", "c\n", BadValue, "more.txt holds no prompt"),
    "the same": ("a b\n", "a b\n", BadValue, "same states in layer 1"),
    "too long": ("word " * 300 + "\n", "c\n", BadValue, "Prompt 1 of the positive list has"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_lists_that_cannot_be_used_are_refused(built_in, lists, tmp_path, name):
    more, less, kind, words = REFUSED[name]
    lists[0].write_text(more)
    lists[1].write_text(less)
    with pytest.raises(kind, match=words):
        make(built_in, lists, tmp_path / "v.gguf", context=256)
    assert not (tmp_path / "v.gguf").exists()


def test_files_that_cannot_be_used_are_refused(built_in, lists, vector, tmp_path):
    with pytest.raises(NotFound, match="no file"):
        make(built_in, (tmp_path / "none.txt", lists[1]), tmp_path / "v.gguf")
    lists[1].write_bytes(b"\xff\xfe\n")
    with pytest.raises(BadFile, match="not UTF-8"):
        make(built_in, lists, tmp_path / "v.gguf")
    lists[1].write_text("\n".join(KNOWN))
    with pytest.raises(BadValue, match="is the input itself"):
        make(built_in, lists, lists[0])
    with pytest.raises(BadFile, match="is a control vector, not a model"):
        make(vector, lists, tmp_path / "w.gguf")


def test_a_vector_takes_no_models_place(built_in, vector, lists, tmp_path):
    for content in (built_in.read_bytes(), built_in.read_bytes()[:5000]):  # whole, and cut short
        (tmp_path / "model.gguf").write_bytes(content)
        with pytest.raises(BadValue, match=r"model.gguf exists, and is no control vector. Name another output"):
            make(built_in, lists, tmp_path / "model.gguf")
        assert (tmp_path / "model.gguf").read_bytes() == content
    for content in (vector.read_bytes(), b"", b"no GGUF"):
        (tmp_path / "old.gguf").write_bytes(content)
        plan_vector(VectorConfig(model=built_in, positive=lists[0], negative=lists[1], output=tmp_path / "old.gguf"))
    with pytest.raises(OSError, match="too long"):
        make(built_in, lists, tmp_path / f"{'n' * 300}.gguf")


def test_a_vector_of_another_model_is_refused(vector, lists, tmp_path):
    for more, words in (({"width": 64}, "256 wide"), ({"width": 256, "layers": 2}, "direction for layer"),
                        ({"width": 256, "layers": 6}, "another base")):  # fmt: skip
        other = write_random_model(tmp_path / "other.gguf", **more)
        job = measure_effect(EffectConfig(model=other, vector=vector, prompts=(lists[0],), threads=1))
        with pytest.raises(Unsupported, match=words):
            drain(job)


def test_escapes_and_blank_lines_are_read_as_llama_cpp_reads_them(tmp_path):
    assert unescaped(r"a\nb\tc\\n\x41\q\"") == 'a\nb\tc\\nA\\q"'
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfone\\ntwo\r\n\r\n  \nthree")
    assert read_prompts(tmp_path / "list.txt") == ("one\ntwo", "three")


# ---- the verb ----------------------------------------------------------------------------------


def test_the_verb_makes_tries_and_leaves_a_card_that_makes_the_same_again(lists, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "built-in",
        "--positive-file",
        "more.txt",
        "--negative-file",
        "less.txt",
        "--chat",
        "-t",
        "1",
        "-o",
        "v.gguf",
    ]
    assert run("control-vector", *words, "--try", "less.txt", "--scales", "-1", "2", "-n", "4", "--match", "know",
               "--json") == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert [one["layer"] for one in found["layers"]] == [1, 2, 3, 4, 5]
    assert [one["scale"] for one in found["effects"]] == [-1, 0, 2]
    card = read_card(tmp_path / "v.gguf")
    assert card.verb == "control-vector" and len(card.sources) == 3
    assert {one["kind"] for one in card.measurements} == {"less at -1", "less at 0", "less at 2"}
    assert run("redo", "v.gguf") == 0
    assert "The content is the same as before" in capsys.readouterr().err
    assert run("control-vector", "built-in", "--vector", "v.gguf", "--chat", "--try", "more.txt", "--scales", "1",
               "-n", "2", "-t", "1") == 0  # fmt: skip
    shown = capsys.readouterr()
    assert "more" in shown.out and "LAYER" not in shown.out
    assert "more at 1" in {one["kind"] for one in read_card(tmp_path / "v.gguf").measurements}


WRONG = {
    "no lists": ([], "two lists of prompts"),
    "an example and lists": (["--example", "--positive-file", "more.txt"], "has its own lists"),
    "a pattern": (["--example", "--match", "("], "is no regular expression"),
    "nothing to try": (["--vector", "v.gguf"], "needs prompts to try it on"),
    "no tokens": (["--example", "-n", "0"], "cannot have 0 tokens"),
    "a scale": (["--example", "--scales", "nan"], "must be a number"),
    "a method": (["--example", "--method", "ica"], "invalid choice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_words_are_told_in_one_line(name, capsys):
    words, said = WRONG[name]
    assert run("control-vector", "built-in", *words) == 2
    shown = capsys.readouterr().err
    assert said in shown and len(shown.strip().splitlines()) == 1


def test_a_list_to_try_that_is_not_there_is_told_before_the_work(tmp_path, capsys):
    assert run("control-vector", "built-in", "--example", "--try", "none.txt", "-o", tmp_path / "v.gguf") == 3
    assert "no file none.txt" in capsys.readouterr().err and not (tmp_path / "v.gguf").exists()
