"""Wrong input: one clear line on standard error, exit code 2 or 3, never a traceback."""

import gguf
import numpy as np
import pytest
from gguf_files import F32, TEXT, U32, gguf_bytes, gguf_key, small_gguf


@pytest.fixture
def refused(run):
    """Run the program on something wrong; return its one line of complaint."""

    def refused(code, *arguments, **options):
        done = run(*arguments, **options)
        assert done.returncode == code, done
        assert done.stdout == ""
        line, *log = done.stderr.splitlines()
        assert line.startswith("localknobs") and all(text.startswith("  log:") for text in log)
        return line

    return refused


@pytest.fixture
def adapter(tmp_path):
    """Return a LoRA adapter as the gguf package writes one."""
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 16.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((8, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((64, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "adapter.gguf"


WRONG_FILES = {
    "empty.gguf": (b"", "is empty"),
    "page.gguf": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
    "noise.gguf": (bytes(range(256)) * 64, "is not a GGUF file"),
    "pointer.gguf": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "weights.safetensors": (b"\x40\0\0\0\0\0\0\0{", "checkpoint"),
    "torn.gguf": (small_gguf()[:-1], "cut short"),
}


@pytest.mark.parametrize("verb", [("chat", "-p", "x"), ("show",)], ids=lambda verb: verb[0])
@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_that_is_no_model(refused, tmp_path, name, verb):
    data, says = WRONG_FILES[name]
    (tmp_path / name).write_bytes(data)
    line = refused(3, *verb, tmp_path / name)
    assert says in line and name in line


@pytest.mark.parametrize("share", [0.00001, 0.0005, 0.01, 0.3, 0.999])
def test_the_built_in_model_cut_at_some_place(refused, built_in, tmp_path, share):
    whole = built_in.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * share)])
    assert "Download it again." in refused(3, "chat", tmp_path / "cut.gguf", "-p", "x")


def test_no_such_file_and_the_near_name(refused, home, tmp_path):
    (home / "data" / "models").mkdir(parents=True)
    (home / "data" / "models" / "Llama-3B.gguf").write_bytes(small_gguf())
    assert "There is no file" in refused(3, "chat", tmp_path / "none.gguf", "-p", "x")
    assert "Did you mean Llama-3B?" in refused(3, "show", "llama-3")
    assert "localknobs ls" in refused(3, "show", "zzzzzz")
    refused(3, "show", "")


@pytest.mark.parametrize("arguments", [("finetune", "built-in", "FILE", "-o", "out"), ("verify", "FILE", "built-in"),
                                       ("convert", "FILE"), ("merge", "FILE", "--lora", "a", "-o", "out")])  # fmt: skip
def test_a_user_there_is_not(refused, arguments):
    name = "~nobody-of-that-name/file"
    assert name in refused(3, *(name if word == "FILE" else word for word in arguments))


def test_a_folder_names_the_file_inside(refused, tmp_path):
    assert "is a folder" in refused(3, "chat", tmp_path, "-p", "x")
    (tmp_path / "inside.gguf").write_bytes(small_gguf())
    assert "inside.gguf" in refused(3, "show", tmp_path)


def test_an_adapter_is_not_a_model_but_can_be_shown(refused, run, adapter):
    assert "is a LoRA adapter, not a model" in refused(3, "chat", adapter, "-p", "x")
    shown = run("show", adapter)
    assert shown.returncode == 0
    assert "rank" in shown.stdout and "lora" in shown.stdout and "16" in shown.stdout


def test_what_llama_cpp_refuses_gives_its_reason(run, tmp_path):
    (tmp_path / "hollow.gguf").write_bytes(small_gguf())
    done = run("chat", tmp_path / "hollow.gguf", "-p", "x")
    assert done.returncode == 3 and "cannot load" in done.stderr.splitlines()[0]
    assert "  log: " in done.stderr and "error loading model" in done.stderr


def test_a_rope_scaling_that_would_abort_llama_cpp(refused, tmp_path):
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("llama.context_length", U32, 128),
        gguf_key("llama.rope.scaling.type", TEXT, "dynamic"),
        gguf_key("llama.rope.freq_base", F32, 10000.0),
    ]
    (tmp_path / "rope.gguf").write_bytes(gguf_bytes(keys))
    assert "RoPE scaling 'dynamic'" in refused(3, "chat", tmp_path / "rope.gguf", "-p", "x")


def test_a_context_larger_than_memory_says_what_fits(refused, tmp_path):
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("llama.context_length", U32, 4096),
        gguf_key("llama.block_count", U32, 1000),
        gguf_key("llama.embedding_length", U32, 65_536),
        gguf_key("llama.attention.head_count", U32, 512),
    ]
    (tmp_path / "huge.gguf").write_bytes(gguf_bytes(keys))
    line = refused(3, "chat", tmp_path / "huge.gguf", "-p", "x", "-c", "16777216")
    assert "needs" in line and "of memory are free" in line and "-c " in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("chat", "-p", "x", "--temp", "9"), "temp (--temp) cannot be 9. It takes 0 to 5"),
        (("chat", "-p", "x", "--top-k", "-3"), "It takes 0 to 1000000"),
        (("chat", "-p", "x", "-c", "many"), "n_ctx (-c) cannot be 'many'"),
        (("chat", "-p", "x", "-c", "99999999"), "0 to 16777216"),
        (("chat", "-p", "x", "--samplers", "warmth"), "names out of penalties"),
        (("chat", "-p", "x", "--preset", "determinstic"), "Did you mean deterministic?"),
        (("chat", "-p", "x", "--preset", "zzz"), "Presets are: default"),
        (("chat", "-p", "x", "--tempo", "1"), "Did you mean --temp?"),
        (("chat", "-p"), "expected one argument"),
        (("show", "--tensor"), "Did you mean --tensors?"),
        (("knobs", "tmep"), "Did you mean temp?"),
        (("knobs", "decoed"), "Did you mean decode?"),
        (("knobs", "zzzzzz"), "lists them all"),
        (("chatt",), "Did you mean chat?"),
        (("model.gguf",), "localknobs chat model.gguf"),
        (("xyzzy",), "--help"),
        (("--nothing",), "There is no flag --nothing"),
        (("tui",), "needs a terminal"),
        ((), "needs a terminal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_usage_slip(refused, arguments, says):
    assert says in refused(2, *arguments)


def test_the_models_own_preset_where_it_has_none(refused, tmp_path):
    from random_model import write_random_model

    model = write_random_model(tmp_path / "plain.gguf")
    assert "recommends no sampling values" in refused(3, "chat", model, "-p", "x", "--preset", "model", "-t", "1")


def test_a_broken_preset_file_names_it(refused, home):
    (home / "config" / "presets").mkdir(parents=True)
    (home / "config" / "presets" / "mine.toml").write_text("temp = 9\n")
    line = refused(3, "chat", "-p", "x", "--preset", "mine")
    assert "mine.toml" in line and "0 to 5" in line


def test_a_home_that_is_a_file_costs_no_listing(run, home):
    home.mkdir(parents=True)
    (home / "data").write_text("a file where the folder should be")
    done = run("ls")
    assert done.returncode == 0 and "built-in" in done.stdout
