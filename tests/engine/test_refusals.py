"""What would end llama.cpp's process or give wrong answers in silence is refused by name, before anything is loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf_files import F32, TEXT, U32, gguf_bytes, gguf_key

from localknobs.engine import LoadSettings, load
from localknobs.engine.process import WorkerProcess
from localknobs.engine.refusals import check_settings, key_head_sizes, rotary_size
from localknobs.errors import BadValue, EngineDied, LocalknobsError, Unsupported
from localknobs.gguf_info import read_header


def header_with(folder: Path, *keys: bytes, heads: int = 4, width: int = 256) -> Any:
    """Return the header of a file that says so; it has no weights."""
    path = folder / "model.gguf"
    known = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("llama.block_count", U32, 2),
        gguf_key("llama.context_length", U32, 512),
        gguf_key("llama.embedding_length", U32, width),
        gguf_key("llama.attention.head_count", U32, heads),
    ]
    path.write_bytes(gguf_bytes([*known, *keys]))
    return read_header(path)


def refusal(header: Any, **settings: Any) -> LocalknobsError:
    with pytest.raises((BadValue, Unsupported)) as told:
        check_settings(header, LoadSettings(model=header.path, **settings))
    assert told.value.hint
    return told.value


@pytest.mark.parametrize("name", ["cache_type_k", "cache_type_v"])
@pytest.mark.parametrize("kind", ["q4_k", "q6_K", "q2_k", "iq4_xs"])
def test_a_cache_type_of_256_values_a_block_is_refused_with_the_reason(tmp_path, name, kind):
    text = str(refusal(header_with(tmp_path), **{name: kind}))
    assert name in text and kind in text and ("256" in text or "garbage" in text)


@pytest.mark.parametrize("kind", ["iq2_xxs", "iq3_s", "tq1_0", "tq2_0"])
def test_codebook_and_ternary_cache_types_are_refused(tmp_path, kind):
    text = str(refusal(header_with(tmp_path), cache_type_k=kind))
    assert "cache_type_k" in text and kind in text and "garbage" in text


@pytest.mark.parametrize("flash", ["on", "off", "auto"])
@pytest.mark.parametrize(("heads", "size"), [(16, 16), (5, 80)])
def test_a_quantized_cache_needs_a_head_size_that_its_block_divides(tmp_path, flash, heads, size):
    header = header_with(tmp_path, heads=heads, width=heads * size)
    assert key_head_sizes(header) == (size,)
    text = str(refusal(header, cache_type_k="q8_0", flash_attn=flash))
    assert "cache_type_k" in text and f"{size} values" in text
    if flash != "off":
        assert "cache_type_v" in str(refusal(header, cache_type_v="q4_0", flash_attn=flash))
    check_settings(header, LoadSettings(model=header.path, cache_type_k="bf16", cache_type_v="f32"))


def test_the_head_size_that_the_file_names_counts(tmp_path):
    header = header_with(tmp_path, gguf_key("llama.attention.key_length", U32, 80))
    assert "80 values" in str(refusal(header, cache_type_k="q8_0"))
    sliding = header_with(tmp_path, gguf_key("llama.attention.key_length_swa", U32, 48))
    assert "48 values" in str(refusal(sliding, cache_type_k="q8_0"))


def test_quantized_values_with_flash_attention_off_are_refused_by_both_names(tmp_path):
    text = str(refusal(header_with(tmp_path), cache_type_v="q8_0", flash_attn="off"))
    assert "cache_type_v" in text and "flash_attn" in text and "-fa" in text


def test_latent_attention_keeps_one_type_for_both(tmp_path):
    header = header_with(tmp_path, gguf_key("llama.attention.key_length_mla", U32, 192))
    assert "same type" in str(refusal(header, cache_type_k="q8_0"))
    check_settings(header, LoadSettings(model=header.path, cache_type_k="q8_0", cache_type_v="q8_0"))


def test_split_tensors_need_flash_attention(tmp_path):
    assert "split_mode" in str(refusal(header_with(tmp_path), split_mode="tensor", flash_attn="off"))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"rope_scale": 4.0, "rope_freq_scale": 0.25}, "--rope-freq-scale"),
        ({"rope_scaling": "none", "rope_scale": 4.0}, "ignores every factor"),
        ({"rope_scaling": "yarn", "rope_scale": 4.0, "yarn_beta_fast": 1.0, "yarn_beta_slow": 2.0}, "yarn_beta_fast"),
        ({"rope_scaling": "dynamic"}, "rope_scaling"),
        ({"tensor_split": "3,x"}, "-ts"),
        ({"tensor_split": "0,0"}, "-ts"),
        ({"override_tensor": "ffn"}, "PATTERN=BUFFER"),
        ({"override_tensor": "([=CPU"}, "no pattern"),
        ({"n_batch": 0}, "n_batch"),
    ],
    ids=str,
)
def test_a_value_that_llama_cpp_would_drop_or_die_of_is_refused_by_name(tmp_path, settings, names):
    assert names in str(refusal(header_with(tmp_path), **settings))


def test_how_much_of_a_key_is_rotated_is_read_from_the_file(tmp_path):
    assert rotary_size(header_with(tmp_path)) == 64
    assert rotary_size(header_with(tmp_path, gguf_key("llama.rope.dimension_count", U32, 16))) == 16
    assert header_with(tmp_path, gguf_key("llama.rope.freq_base", F32, 5e5)).metadata["llama.rope.freq_base"] == 5e5


def test_the_engine_refuses_before_llama_cpp_is_loaded(random_model, monkeypatch):
    logs: list[str] = []
    kill = WorkerProcess.kill

    def killed(self: WorkerProcess) -> None:
        logs.extend(self.log)
        kill(self)

    monkeypatch.setattr(WorkerProcess, "kill", killed)
    with pytest.raises(Unsupported, match="cache_type_v"):
        load(LoadSettings(model=random_model, threads=1, cache_type_v="q8_0"))
    assert not [line for line in logs if "llama" in line], "llama.cpp wrote a log"


def test_a_buffer_this_build_lacks_is_refused_with_those_it_has(random_model):
    with pytest.raises(BadValue, match=r"CUDA9.*\n?.*CPU"):
        load(LoadSettings(model=random_model, threads=1, override_tensor="ffn_.*=CUDA9"))


def test_every_placement_knob_reaches_llama_cpp_and_the_answer_stays_the_same(open_engine, random_model):
    def answer(**settings: Any) -> str:
        engine = open_engine(random_model, n_ctx=256, **settings)
        try:
            events = engine.stream("Hello", {"temp": 0.0, "n_predict": 8})
            return "".join(getattr(event, "text", "") for event in events)
        finally:
            engine.close()

    plain = answer()
    placed = answer(
        override_tensor="ffn_.*=CPU", cpu_moe="on", n_cpu_moe=1, tensor_split="3,1", split_mode="layer", main_gpu=0,
        n_gpu_layers=0, no_kv_offload="on", swa_full="on",
    )  # fmt: skip
    assert placed == plain != ""


@pytest.mark.parametrize(
    "way",
    ["sequence", "batch", "logits", "selector", "adapters", "freed", "cache type", "null", "no_alloc", "in place"],
)
def test_what_nothing_can_refuse_costs_the_worker_alone_and_is_told(random_model, tmp_path, way):
    """Calls that no setting makes: should one ever be made, it is an error with the log's last lines.

    `no_alloc` is a plan of a file that is mapped (`planner.py` maps none); `in place` quantizes a file onto itself (see
    `refuse_same_file` and tests/convert/test_quantize_failures.py).
    """
    script = Path(__file__).with_name("crashing_worker.py")
    file = shutil.copy(random_model, tmp_path / "copy.gguf")
    worker = WorkerProcess((sys.executable, str(script), way, str(file)))
    try:
        settings = {"model": str(random_model), "n_ctx": 256, "threads": 1}
        worker.send({"do": "load", "settings": settings, "use_extra_bufts": False})
        while "loaded" not in worker.receive():
            pass
        worker.send({"do": "count", "prompt": "x"})
        with pytest.raises(EngineDied, match="SIGABRT|SIGSEGV|SIGBUS") as told:
            worker.receive()
        assert told.value.hint and (told.value.log_tail or way in ("freed", "null"))
    finally:
        worker.kill()


def test_a_batch_beyond_n_batch_is_refused_by_name(random_model):
    code = (
        "import sys\nfrom pathlib import Path\nfrom localknobs.engine.llama import LoadedModel\n"
        "from localknobs.engine.settings import LoadSettings\nfrom localknobs.errors import BadValue\n"
        "settings = LoadSettings(model=Path(sys.argv[1]), n_batch=32, n_ubatch=32)\n"
        "model = LoadedModel(settings, 256, 1, False, lambda done: None)\n"
        "for decode in (model.decode, model.decode_all):\n"
        "    try:\n        decode([5] * 33)\n    except BadValue as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(random_model)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("n_batch (-b) is 32") == 2


def test_a_callback_that_fails_is_told_and_the_computation_goes_on(monkeypatch):
    """Were it to raise or to say no, llama.cpp would compute no further and return the last token's logits."""
    from localknobs.engine import attention_scores

    def fail(pointer: int) -> None:
        raise ValueError("a tensor of another layout")

    monkeypatch.setattr(attention_scores.Tensor, "from_address", fail)
    scores = attention_scores.AttentionScores(4)
    assert scores.on_tensor(1, True, None) is True
    assert scores.on_tensor(1, True, None) is False  # no more is asked for
    assert scores.on_tensor(1, False, None) is True
    with pytest.raises(LocalknobsError, match="Attention cannot be read: a tensor of another layout"):
        scores.scores(0)
