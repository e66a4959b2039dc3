"""A file is proved against its checkpoint: what is right passes, and each kind of wrong is named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile

import gguf
import numpy as np
import pytest
from conversions import change_json, convert_to, copy_of
from random_model import write_random_model
from repository import REPOSITORY

from localknobs.cli.main import run
from localknobs.convert.adapter import LoraChoice
from localknobs.convert.gguf_header import header_bytes, raw_keys, replaced, text_key, texts_key
from localknobs.convert.logit_distance import Distance, limits_for
from localknobs.convert.verify import VerifyConfig, plan_verify, verify
from localknobs.errors import BadFile, BadValue, LocalknobsError, MissingExtra, NotEnough, NotFound
from localknobs.gguf_info import Header, read_header
from localknobs.jobs import Advanced, Started, drain

CHECKPOINT = REPOSITORY / "models" / "checkpoint"
TEMPLATE = (CHECKPOINT / "chat_template.jinja").read_text(encoding="utf-8")


def found_by(source, model, prompts=2, loras=()):
    verdict = drain(verify(plan_verify(VerifyConfig(source, model, prompts, 1, loras))))
    return verdict, {check.name: check.found for check in verdict.checks if not check.passed}


def with_key(built_in, output, key):
    """Write the built-in model with another value of a key."""
    header = read_header(built_in)
    head = header_bytes(replaced(raw_keys(header), [key]), header.tensors)
    output.write_bytes(head + built_in.read_bytes()[header.data_start :])
    return output


def texts_of(built_in, key):
    return gguf.GGUFReader(built_in).fields[key].contents()


# ---- what is right -------------------------------------------------------------------------------


def test_the_built_in_model_is_that_of_its_checkpoint(built_in, capsys):
    assert run(["verify", str(CHECKPOINT), str(built_in), "-t", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("\nPASS\n") and "WRONG" not in shown and shown.count(" ok: ") == 4
    assert "20 prompts" in shown and len(shown.splitlines()) <= 24
    assert run(["verify", str(CHECKPOINT), str(built_in), "-t", "1", "--prompts", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] and [check["name"] for check in result["checks"]] == [
        "tokens", "chat template", "begin and end", "logits",
    ]  # fmt: skip
    assert 0 < result["logits"]["kl_mean"] <= result["logits"]["kl_worst"] < 1e-3
    assert 0 < result["logits"]["mean_difference"] < result["logits"]["max_difference"] < 0.1


@pytest.mark.parametrize("case", ["llama", "qwen2", "gemma2"])
def test_conversions_pass_within_the_limit_of_f32(checkpoint, case, tmp_path):
    source = checkpoint(case)
    verdict, wrong = found_by(source, convert_to(tmp_path / "out.gguf", source, check_tokens=True), 4)
    assert not wrong and verdict.distance.largest < verdict.limits.most_difference <= 1e-2


@pytest.fixture
def adapters(checkpoint, tmp_path):
    """Return a base, and adapters of it by name."""
    from tiny_adapters import save_adapter

    base = checkpoint("llama")
    return base, {
        "plain": save_adapter(base, tmp_path / "plain", r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
        "dora": save_adapter(base, tmp_path / "dora", seed=2, r=4, use_dora=True, target_modules=["v_proj"]),
        "whole": save_adapter(
            base, tmp_path / "whole", seed=3, r=4, target_modules=["k_proj"], modules_to_save=["lm_head"]
        ),
        "tokens": save_adapter(
            base, tmp_path / "tokens", seed=4, r=4, target_modules=["q_proj"], trainable_token_indices=[5, 6, 300]
        ),
    }


@pytest.mark.parametrize("chosen", [["dora:1"], ["tokens:0.5"], ["plain:0.3", "whole:0.7"]], ids=",".join)
def test_a_file_with_adapters_merged_is_compared_with_what_peft_makes_of_them(adapters, chosen, tmp_path):
    base, folders = adapters
    pairs = [choice.split(":") for choice in chosen]
    loras = tuple(LoraChoice(folders[name], float(scale)) for name, scale in pairs)
    model = convert_to(tmp_path / "out.gguf", base, loras=loras)
    verdict, wrong = found_by(base, model, loras=loras)
    assert not wrong and verdict.distance.largest < verdict.limits.most_difference


def test_an_adapter_left_out_is_noticed_from_the_command_line(adapters, tmp_path, capsys):
    base, folders = adapters
    model = convert_to(tmp_path / "out.gguf", base, loras=(LoraChoice(folders["plain"], 0.5),))
    words = ["verify", str(base), str(model), "-t", "1", "--prompts", "2"]
    assert run(words) == 1
    assert run([*words, "--lora", f"{folders['plain']}:0.5"]) == 0
    assert " with plain at 0.5\n" in capsys.readouterr().out
    assert run([*words, "--lora", str(tmp_path / "none")]) == 3


# ---- what is wrong, and named --------------------------------------------------------------------


def test_one_scaled_tensor_fails_by_its_logits(built_in, tmp_path, capsys):
    model = tmp_path / "scaled.gguf"
    shutil.copy(built_in, model)
    header = read_header(model)
    (tensor,) = [tensor for tensor in header.tensors if tensor.name == "blk.2.attn_output.weight"]
    values = np.memmap(model, np.float16, "r+", header.data_start + tensor.offset, (tensor.elements,))
    values *= np.float16(1.5)
    values.flush()
    assert run(["verify", str(CHECKPOINT), str(model), "-t", "1", "--prompts", "2"]) == 1
    shown = capsys.readouterr().out
    assert shown.endswith("\nFAIL: logits\n") and "WRONG: the mean KL divergence is" in shown


def test_a_weight_that_is_no_number_fails(built_in, tmp_path):
    model = tmp_path / "nan.gguf"
    shutil.copy(built_in, model)
    header = read_header(model)
    (tensor,) = [tensor for tensor in header.tensors if tensor.name == "blk.1.attn_norm.weight"]
    np.memmap(model, np.float32, "r+", header.data_start + tensor.offset, (1,))[:] = np.nan
    _, wrong = found_by(CHECKPOINT, model)
    assert wrong == {"logits": "the file gives logits that are no numbers"}


def test_a_wrong_chat_template_fails_and_shows_where(built_in, tmp_path):
    changed = with_key(
        built_in, tmp_path / "t.gguf", text_key("tokenizer.chat_template", TEMPLATE.replace("assistant\n", "model\n"))
    )
    _, wrong = found_by(CHECKPOINT, changed)
    assert [*wrong] == ["chat template"]
    assert "the checkpoint writes 'assistant" in wrong["chat template"] and "the file 'model" in wrong["chat template"]
    without = with_key(built_in, tmp_path / "n.gguf", text_key("tokenizer.chat_template", ""))
    _, wrong = found_by(CHECKPOINT, without)
    assert wrong["chat template"] == "only the checkpoint has one"
    broken = with_key(built_in, tmp_path / "b.gguf", text_key("tokenizer.chat_template", "{{ raise_exception('no') }}"))
    _, wrong = found_by(CHECKPOINT, broken)
    assert "refuses what the checkpoint's renders" in wrong["chat template"]


def test_a_begin_token_twice_fails(built_in, tmp_path):
    key = text_key("tokenizer.chat_template", "{{ bos_token }}" + TEMPLATE)
    _, wrong = found_by(CHECKPOINT, with_key(built_in, tmp_path / "t.gguf", key))
    assert wrong["begin and end"] == "a chat begins with 2 begin tokens, should be 1"


def test_an_end_token_that_does_not_end_fails(built_in, tmp_path):
    source = copy_of(CHECKPOINT, tmp_path / "source")
    change_json(source / "generation_config.json", eos_token_id=[3, 300])
    _, wrong = found_by(source, built_in)
    assert [*wrong] == ["begin and end"] and "(300) should end the answer" in wrong["begin and end"]


def test_merges_in_another_order_fail_and_show_the_first_text(built_in, tmp_path):
    merges = texts_of(built_in, "tokenizer.ggml.merges")
    key = texts_key("tokenizer.ggml.merges", [*reversed(merges[:400]), *merges[400:]])
    _, wrong = found_by(CHECKPOINT, with_key(built_in, tmp_path / "m.gguf", key))
    assert [*wrong] == ["tokens"]
    assert "texts differ, first" in wrong["tokens"] and "on the checkpoint has" in wrong["tokens"]


def test_the_file_of_another_model_fails_in_every_way(tmp_path):
    verdict, wrong = found_by(CHECKPOINT, write_random_model(tmp_path / "other.gguf"))
    assert {"tokens", "logits"} <= set(wrong) and verdict.distance is None
    assert "the prompts use number" in wrong["logits"]


# ---- refused, stopped, died ----------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused_before_anything_is_loaded(built_in, tmp_path, monkeypatch):
    def plan(source=CHECKPOINT, model=built_in, prompts=2):
        return plan_verify(VerifyConfig(source, model, prompts))

    with pytest.raises(BadValue, match="20 prompts, not 21"):
        plan(prompts=21)
    with pytest.raises(NotFound):
        plan(source=tmp_path / "none")
    with pytest.raises(NotFound):
        plan(model=tmp_path / "none.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtra, match=r"torch and transformers, not installed .* pip install 'localknobs\[train\]'"
    ):
        plan()


def test_a_split_file_that_torch_computes_with_counts_whole(built_in, tmp_path, monkeypatch):
    writer = gguf.GGUFWriter(tmp_path / "split.gguf", "llama", split_max_tensors=1)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, np.zeros((64, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr("localknobs.convert.verify.total_memory_bytes", lambda: 100_000)
    with pytest.raises(NotEnough) as raised:
        plan_verify(VerifyConfig(CHECKPOINT, built_in, weights=tmp_path / "split-00001-of-00002.gguf"))
    assert raised.value.needed_bytes == 2 * 4 * 64 * 256


def test_a_checkpoint_that_transformers_cannot_load_is_an_error(built_in, tmp_path):
    source = copy_of(CHECKPOINT, tmp_path / "source", model_type="unheard-of", architectures=["UnheardOf"])
    with pytest.raises(BadFile, match="transformers cannot load"):
        found_by(source, built_in)


@pytest.fixture
def workers(monkeypatch):
    from localknobs.engine import process

    started = []
    monkeypatch.setattr(
        "localknobs.convert.verify.WorkerProcess",
        lambda command: started.append(process.WorkerProcess(command)) or started[-1],
    )
    return started


@pytest.mark.parametrize("stage", ["loading the checkpoint in transformers", "the checkpoint", "the file"])
def test_stopped_anywhere_no_process_and_no_file_is_left(built_in, tmp_path, monkeypatch, workers, stage):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    job = verify(plan_verify(VerifyConfig(CHECKPOINT, built_in, 3, 1)))
    while not (isinstance(event := next(job), Started) and event.what == stage):
        pass
    assert isinstance(next(job), Advanced) and [*tmp_path.iterdir()]
    job.close()
    assert not [*tmp_path.iterdir()]
    assert workers and all(worker.process.poll() is not None for worker in workers)


def test_a_process_that_dies_is_an_error(built_in, workers):
    job = verify(plan_verify(VerifyConfig(CHECKPOINT, built_in, 2, 1)))
    next(job)
    next(job)
    os.kill(workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(LocalknobsError, match="The process with the checkpoint was ended by signal SIGKILL"):
        drain(job)


# ---- arithmetic ----------------------------------------------------------------------------------


def test_the_numbers_are_those_of_a_plain_calculation():
    expected, found = np.log(np.float32([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]])), np.log(
        np.float32([[0.25, 0.5, 0.25], [0.2, 0.7, 0.1]])
    )  # fmt: skip
    distance = Distance()
    distance.add(4, expected, found + np.float32(0))
    ln2 = np.log(2)
    assert distance.largest == pytest.approx(ln2) and distance.mean == pytest.approx(2 * ln2 / 6)
    assert distance.top_share == 0.5 and distance.worst_prompt == 4 and distance.places == 2
    assert distance.kl_worst == pytest.approx(0.25 * ln2) and distance.kl_mean == pytest.approx(0.125 * ln2, rel=1e-5)


def test_limits_go_by_the_type(tmp_path):
    def of(number):
        return limits_for(Header(tmp_path, 3, {"general.architecture": "llama", "general.file_type": number}, ()))

    assert of(0).most_difference == 2e-3 and of(1).most_difference == np.inf
    kl = [of(number).most_kl for number in (0, 1, 7, 18, 17, 15, 12, 10)]  # F32 F16 Q8_0 ... Q2_K
    assert kl == sorted(kl) and len(set(kl)) == len(kl)
    assert "Llama-3-8B" in of(15).normal and "0.0313" in of(15).normal
    assert "not listed" in of(26).normal  # IQ3_S
