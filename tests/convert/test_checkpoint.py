"""Reading checkpoints: every type as torch has it, shards, old files safely, and damage by its name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from localknobs.convert.checkpoint import open_checkpoint
from localknobs.convert.float_types import first_not_finite, from_float32, to_float32
from localknobs.errors import BadFile, LocalknobsError, NotFound, Unsupported

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 4}')
    return tmp_path


def save(folder: Path, weights: dict[str, torch.Tensor], name: str = "model.safetensors") -> Path:
    save_file(weights, folder / name)
    return folder / name


def save_raw(path: Path, header: dict | bytes, data: bytes = b"", length: int | None = None) -> None:
    """Write a safetensors file that may say anything of itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


# ---- types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
def test_every_float_type_is_read_as_torch_reads_it(folder, dtype):
    torch.manual_seed(0)
    values = torch.cat([torch.randn(3000), torch.randn(500) * 1e-4, torch.tensor([0.0, -0.0, 1.0, 448.0])])
    stored = (values.abs() + 0.1 if dtype == "F8_E8M0" else values).to(TYPES[dtype]).reshape(-1, 8)
    save(folder, {"a": torch.ones(3, dtype=torch.uint8), "w": stored})
    checkpoint = open_checkpoint(folder)
    spec = checkpoint.info("w")
    assert (spec.dtype, spec.shape, spec.file) == (dtype, (438, 8), folder / "model.safetensors")
    expected = stored.float().numpy()
    assert np.array_equal(checkpoint.read("w"), expected)
    assert bytes(checkpoint.raw("w")) == stored.reshape(-1).view(torch.uint8).numpy().tobytes()
    assert bytes(checkpoint.read_bytes("w")) == bytes(checkpoint.raw("w"))
    part = np.empty(11, np.float32)
    checkpoint.read_part("w", 17, part)
    assert np.array_equal(part, expected.reshape(-1)[17:28])


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_all_bytes_of_small_types(dtype):
    stored = np.arange(256, dtype=np.uint8)
    values = np.empty(256, np.float32)
    to_float32(dtype, stored, values)
    assert np.array_equal(values, torch.from_numpy(stored).view(TYPES[dtype]).float().numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", ["F64", "F16", "BF16"])
def test_rounding_is_torchs(dtype):
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values).to(TYPES[dtype]).view(torch.uint8).numpy()
    assert np.array_equal(from_float32(dtype, values), expected)


@pytest.mark.parametrize("at", [0, 70_000, 1_999_999])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite(at, value):
    values = np.full(2_000_000, 3e38, np.float32)  # whose sum is infinite
    assert first_not_finite(values) is None
    values[at:] = value
    assert first_not_finite(values) == at


def test_integers_are_not_weights(folder):
    save(folder, {"positions": torch.arange(6)})
    checkpoint = open_checkpoint(folder)
    assert bytes(checkpoint.raw("positions")) == np.arange(6).tobytes()
    with pytest.raises(Unsupported, match=r"model.safetensors: the tensor positions is of type I64"):
        checkpoint.read("positions")


def test_empty_and_single_values(folder):
    save(folder, {"none": torch.empty(0, 4), "one": torch.tensor(2.5), "row": torch.ones(1, 3)})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.read("none").shape == (0, 4)
    assert checkpoint.read("one") == 2.5
    assert checkpoint.read("one").shape == ()
    assert len(checkpoint.raw("none")) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers(folder, dtype, value):
    weights = torch.zeros(300, 7)
    weights[200, 3] = value
    save(folder, {"fine": torch.ones(4), "model.layers.0.w": weights.to(dtype)})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.read("fine").sum() == 4
    with pytest.raises(BadFile, match=rf"model.safetensors: the tensor model.layers.0.w has the value {value}"):
        checkpoint.read("model.layers.0.w")


# ---- files -------------------------------------------------------------------------------------


def save_shards(folder: Path) -> dict[str, torch.Tensor]:
    weights = {f"layer.{at}": torch.full((3, 4), float(at)) for at in range(5)}
    names = list(weights)
    places = {}
    for at, part in enumerate((names[:2], names[2:4], names[4:])):
        file = f"model-{at + 1:05}-of-00003.safetensors"
        save(folder, {name: weights[name] for name in part}, file)
        places.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return weights


@pytest.mark.parametrize("with_index", [True, False])
def test_shards(folder, with_index):
    weights = save_shards(folder)
    if not with_index:
        (folder / "model.safetensors.index.json").unlink()
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.names()) == set(weights)
    for name, values in weights.items():
        assert np.array_equal(checkpoint.read(name), values.numpy())
    assert checkpoint.size_bytes == 5 * 48


def test_a_weight_file_itself_can_be_named(folder):
    file = save(folder, {"a": torch.ones(2)}, "other.safetensors")
    save(folder, {"b": torch.ones(2)})
    assert open_checkpoint(file).names() == ["a"]
    assert open_checkpoint(folder).names() == ["b"]


def test_old_files_are_read_by_torchs_safe_loader(folder):
    weights = {"a": torch.randn(4, 5).bfloat16(), "b": torch.randn(7), "turned": torch.randn(3, 6).T}
    torch.save(weights, folder / "pytorch_model.bin")
    checkpoint = open_checkpoint(folder)
    for name, values in weights.items():
        assert checkpoint.info(name).shape == tuple(values.shape)
        assert np.array_equal(checkpoint.read(name), values.float().numpy())


class _Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    torch.save({"a": torch.ones(3), "b": _Attack()}, folder / "pytorch_model.bin")
    with pytest.raises(BadFile, match=r"pytorch_model.bin cannot be loaded as weights alone"):
        open_checkpoint(folder)
    assert not (folder / "attacked").exists()


def test_torch_is_not_needed(folder):
    save_shards(folder)
    program = (
        "import sys; from pathlib import Path; from localknobs.convert.checkpoint import open_checkpoint\n"
        f"checkpoint = open_checkpoint(Path({str(folder)!r}))\n"
        "assert checkpoint.read('layer.4').sum() == 48\n"
        "assert not {'torch', 'safetensors', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


MEMORY = """
import resource, sys
from pathlib import Path
from localknobs.convert.checkpoint import open_checkpoint
checkpoint = open_checkpoint(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in checkpoint.names():
    checkpoint.read(name)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_at_one_tensor(folder):
    save(folder, {f"w{at}": torch.ones(1000, 2000, dtype=torch.bfloat16) for at in range(16)})
    done = subprocess.run([sys.executable, "-c", MEMORY, folder], capture_output=True, text=True, check=True)
    grown_bytes = int(done.stdout) * 1024
    assert grown_bytes < 3 * 8_000_000  # a tensor as float32 has 8 MB, the file 64 MB


# ---- damage ------------------------------------------------------------------------------------


def refused(folder: Path, kind: type[LocalknobsError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        open_checkpoint(folder)
    for word in words:
        assert word in str(caught.value)


def test_what_is_no_checkpoint(tmp_path):
    refused(tmp_path / "none", NotFound, "There is no folder")
    refused(tmp_path, NotFound, "has no config.json")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, NotFound, "has no weights")
    (tmp_path / "config.json").write_text("[")
    refused(tmp_path, BadFile, "config.json cannot be read")
    (tmp_path / "config.json").write_text("[1]")
    refused(tmp_path, BadFile, "config.json holds no JSON object")


def test_an_adapter_is_no_checkpoint(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, NotFound, "is an adapter", "--lora")


def test_a_config_without_a_key(folder):
    save(folder, {"a": torch.ones(2)})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.need("hidden_size") == 4
    with pytest.raises(BadFile, match=r"config.json does not say num_hidden_layers"):
        checkpoint.need("num_hidden_layers")


@pytest.mark.parametrize("with_index", [True, False])
def test_a_shard_that_is_missing(folder, with_index):
    save_shards(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    if not with_index:
        (folder / "model.safetensors.index.json").unlink()
    refused(folder, NotFound, "model-00002-of-00003.safetensors", "is missing")


def test_an_index_that_names_a_tensor_that_is_not_there(folder):
    save_shards(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["layer.9"] = "model-00002-of-00003.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, BadFile, "model-00002-of-00003.safetensors does not have the tensor layer.9")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "no json"])
def test_a_broken_index(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, BadFile, "model.safetensors.index.json")


def test_an_index_that_leaves_its_folder(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    refused(folder, BadFile, "outside its folder")


def test_a_tensor_in_two_files(folder):
    for at in (1, 2):
        save(folder, {"a": torch.ones(2)}, f"model-{at:05}-of-00002.safetensors")
    refused(folder, BadFile, "has the tensor a, as has")


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"{", b"", "damaged header"),
        (b"[]", b"", "damaged header"),
        (b"\xff\xfe", b"", "damaged header"),
        ({"w": 3}, b"", "damaged entry for the tensor w"),
        ({"w": {"dtype": "F32", "shape": [2]}}, b"", "damaged entry for the tensor w"),
        ({"w": {**ENTRY, "shape": [-2, -3]}}, bytes(24), "damaged entry for the tensor w"),
        ({"w": {**ENTRY, "shape": ["2", 3]}}, bytes(24), "damaged entry for the tensor w"),
        ({"w": {**ENTRY, "data_offsets": [0, True]}}, bytes(24), "damaged entry for the tensor w"),
        ({"w": {**ENTRY, "data_offsets": [24, 0]}}, bytes(24), "gives the tensor w -24 bytes"),
        ({"w": {**ENTRY, "shape": [2, 4]}}, bytes(24), "gives the tensor w 24 bytes"),
        ({"w": ENTRY}, bytes(20), "ends within the tensor w"),
    ],
)
def test_a_damaged_file(folder, header, data, words):
    save_raw(folder / "model.safetensors", header, data)
    refused(folder, BadFile, str(folder / "model.safetensors"), words)


@pytest.mark.parametrize("length", [2**63, 200_000_000, 1000])
def test_a_header_longer_than_the_file(folder, length):
    save_raw(folder / "model.safetensors", {"w": ENTRY}, bytes(24), length=length)
    refused(folder, BadFile, "is no safetensors file, or only the beginning of one")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"version https://git-lfs.github.com/spec/v1\n"])
def test_something_else_under_its_name(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, BadFile, "is no safetensors file")


def test_a_gguf_file_is_no_checkpoint(folder):
    save(folder, {"a": torch.ones(2)})
    (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadFile, match=r"model\.gguf is a GGUF file, not a checkpoint.*localknobs quantize"):
        open_checkpoint(folder / "model.gguf")


def test_cut_short_while_it_is_read(folder):
    file = save(folder, {"a": torch.ones(1000), "b": torch.ones(1000)})
    checkpoint = open_checkpoint(folder)
    os.truncate(file, file.stat().st_size - 2000)
    assert checkpoint.read("a").sum() == 1000
    with pytest.raises(BadFile, match=r"model.safetensors ends within the tensor b"):
        checkpoint.read("b")


def test_a_tensor_that_nobody_has(folder):
    save(folder, {"a": torch.ones(2)})
    with pytest.raises(BadFile, match=r"has no tensor model.norm.weight"):
        open_checkpoint(folder).read("model.norm.weight")
