"""Quantizing: files identical to llama.cpp's, for every type and odd widths, with and without importance."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
from llama_quantize import reference
from random_model import write_random_model
from repository import REPOSITORY

from localknobs.convert.ggml import TYPE_NUMBERS, bits
from localknobs.convert.imatrix_file import Entry, Imatrix, write_imatrix
from localknobs.convert.quant_plan import TypeChoice
from localknobs.convert.quant_speed import estimated_seconds
from localknobs.convert.quant_types import FILE_TYPE_NUMBERS, QUANTIZABLE, file_type_named
from localknobs.convert.quantize import QuantizeConfig, plan_quantize, quantize
from localknobs.errors import UnknownName, Unsupported
from localknobs.gguf_info import read_header
from localknobs.jobs import drain

BUILT_IN = REPOSITORY / "models" / "built-in.gguf"
SHAPES = {
    "whole blocks": {"width": 256, "feed_forward": 256, "layers": 2, "kind": "F16"},
    "odd widths": {"width": 96, "feed_forward": 80, "layers": 2, "kind": "F32"},
}


def write(source, target, file_type, *, imatrix=None, **choice):
    """Quantize as the program does, on one thread; return the plan."""
    plan = plan_quantize(
        QuantizeConfig(
            source=source, outputs=((file_type, target),), choice=TypeChoice(**choice), imatrix=imatrix, threads=1
        )
    )
    drain(quantize(plan))
    return plan


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return write_random_model(folder / "model.gguf", **SHAPES[request.param])


def importance(model):
    """Return an importance matrix of every matrix of a model, written beside it, and its file."""
    random = np.random.default_rng(5)
    entries = {}
    for tensor in gguf.GGUFReader(model).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            matrices = int(tensor.shape[2]) if len(tensor.shape) > 2 else 1
            sums = random.exponential(50.0, (matrices, int(tensor.shape[0]))).astype(np.float32)
            counts = np.arange(37, 37 + matrices)
            counts[matrices // 2 :] *= matrices == 1  # experts that saw nothing
            entries[tensor.name] = Entry(sums.astype(np.float64), counts)
    matrix = Imatrix(entries, ("a text", "another"), 12, 512)
    write_imatrix(matrix, model.with_name("imatrix.gguf"))
    return matrix, model.with_name("imatrix.gguf")


KEYS = {"quantize.imatrix.file": "imatrix.gguf", "quantize.imatrix.dataset": "a text"}


SLOW_TABLES = ("IQ1_S", "IQ1_M", "IQ2_M", "IQ3_XXS")
"""Types whose code books take ggml 4 to 8 seconds to make, once a process."""


@pytest.mark.parametrize("with_imatrix", [False, True])
def test_every_type_is_identical_to_llama_cpp_and_refused_where_it_refuses(model, tmp_path, with_imatrix):
    compare(
        model, tmp_path, [name for name in QUANTIZABLE if name not in SLOW_TABLES or not with_imatrix], with_imatrix
    )


@pytest.mark.slow
def test_types_with_slow_tables_are_identical_to_llama_cpp(model, tmp_path):
    compare(model, tmp_path, SLOW_TABLES, True)


def compare(model, tmp_path, names, with_imatrix):
    matrix, file = importance(model)
    means = {name: entry.means().tolist() for name, entry in matrix.entries.items()} if with_imatrix else {}
    keys = {**KEYS, "quantize.imatrix.entries_count": len(means), "quantize.imatrix.chunks_count": 12}
    runs = [
        {"name": name, "file_type": FILE_TYPE_NUMBERS[name], "imatrix": means, "keys": keys if means else {}}
        for name in names
    ]
    refused = reference(model, tmp_path, runs)
    taken = [name for name in names if name not in refused]
    assert len(taken) > len(refused), "most types are compared"
    outputs = tuple((name, tmp_path / f"{name}.gguf") for name in taken)
    plan = plan_quantize(
        QuantizeConfig(source=model, outputs=outputs, imatrix=file if with_imatrix else None, threads=1)
    )
    drain(quantize(plan))
    for (name, ours), planned in zip(outputs, plan.files, strict=True):
        assert ours.read_bytes() == (tmp_path / name).read_bytes(), name
        assert planned.size_bytes == ours.stat().st_size, name
    for name in refused:
        with pytest.raises(Unsupported):
            write(model, tmp_path / "refused.gguf", name, imatrix=file if with_imatrix else None)
    assert not (tmp_path / "refused.gguf").exists()


def test_the_built_in_model(tmp_path):
    refused = reference(BUILT_IN, tmp_path, [{"name": "reference", "file_type": FILE_TYPE_NUMBERS["Q4_K_M"]}])
    assert not refused
    write(BUILT_IN, tmp_path / "ours.gguf", "Q4_K_M")
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "reference").read_bytes()


def test_several_types_in_one_pass_are_those_of_each_alone(model, tmp_path):
    types = ("Q8_0", "F16", "Q4_0", "IQ4_NL")
    outputs = tuple((name, tmp_path / f"{name}.gguf") for name in types)
    # Several threads, whatever the machine has: what they finish is written in order.
    plan = plan_quantize(QuantizeConfig(source=model, outputs=outputs, threads=3))
    assert drain(quantize(plan)) == tuple(path for _, path in outputs)
    for name, path in outputs:
        write(model, tmp_path / "alone.gguf", name)
        assert path.read_bytes() == (tmp_path / "alone.gguf").read_bytes()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"pure": True}, {"pure": True}),
        ({"output_type": "F16"}, {"output_type": 1}),
        ({"embedding_type": "Q5_1"}, {"embedding_type": 7}),
        (
            {"tensor_types": ((r"ffn_(up|gate)", "Q8_0"), (r"blk\.0\.", "Q5_0"))},
            {"tensor_types": [[r"ffn_(up|gate)", 8], [r"blk\.0\.", 6]]},
        ),
    ],
)
def test_options_mean_what_they_mean_in_llama_quantize(model, tmp_path, ours, theirs):
    run = {"name": "reference", "file_type": FILE_TYPE_NUMBERS["Q4_K_M"], **theirs}
    assert not reference(model, tmp_path, [run])
    write(model, tmp_path / "ours.gguf", "Q4_K_M", **ours)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "reference").read_bytes()


def test_a_quantized_source_is_taken_only_when_allowed(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", kind="Q8_0", width=128, feed_forward=256)
    with pytest.raises(Unsupported, match=r"quantized already.*Q8_0.*--allow-requantize"):
        write(model, tmp_path / "ours.gguf", "Q4_0")
    assert not (tmp_path / "ours.gguf").exists()
    run = {"name": "reference", "file_type": FILE_TYPE_NUMBERS["Q4_0"], "allow_requantize": True}
    assert not reference(model, tmp_path, [run])
    write(model, tmp_path / "ours.gguf", "Q4_0", allow_requantize=True)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "reference").read_bytes()
    # What has the wanted type already is copied, which is no requantizing.
    write(model, tmp_path / "same.gguf", "Q8_0")
    assert read_header(tmp_path / "same.gguf").tensor_bytes == read_header(model).tensor_bytes


def write_experts(path, *, split=0):
    """Write something with experts, a table of whole numbers, and uneven rows; too small for llama.cpp to run."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    for key, value in {
        "block_count": 1, "context_length": 64, "embedding_length": 256, "feed_forward_length": 64,
        "attention.head_count": 4, "attention.head_count_kv": 4, "expert_count": 3, "expert_used_count": 2,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_uint32("general.alignment", 32)
    writer.add_array("some.numbers", [1, 2, 3])
    random = np.random.default_rng(1)

    def add(name, *shape, kind=np.float32):
        writer.add_tensor(name, random.standard_normal(shape).astype(kind))

    add("token_embd.weight", 40, 256, kind=np.float16)
    add("output_norm.weight", 256)
    add("blk.0.attn_v.weight", 256, 256)
    add("blk.0.attn_output.weight", 256, 256)
    add("blk.0.ffn_gate_inp.weight", 3, 256)
    add("blk.0.ffn_up_exps.weight", 3, 1100, 256, kind=np.float16)
    add("blk.0.ffn_down_exps.weight", 3, 256, 64, kind=np.float16)
    writer.add_tensor("blk.0.table", np.arange(32, dtype=np.int32).reshape(4, 8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("file_type", ["Q4_K_M", "IQ3_S", "MXFP4_MOE"])
def test_experts_each_have_their_own_importance(tmp_path, file_type):
    model = write_experts(tmp_path / "experts.gguf")
    matrix, file = importance(model)
    means = {name: entry.means().tolist() for name, entry in matrix.entries.items()}
    assert 1.0 in means["blk.0.ffn_up_exps.weight"], "an expert that saw nothing counts evenly"
    keys = {**KEYS, "quantize.imatrix.entries_count": len(means), "quantize.imatrix.chunks_count": 12}
    run = {"name": "reference", "file_type": FILE_TYPE_NUMBERS[file_type], "imatrix": means, "keys": keys}
    assert not reference(model, tmp_path, [run])
    write(model, tmp_path / "ours.gguf", file_type, imatrix=file)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "reference").read_bytes()


def test_a_split_model_becomes_one_file(tmp_path):
    whole = write_experts(tmp_path / "whole.gguf")
    write_experts(tmp_path / "split.gguf", split=3)
    first = tmp_path / "split-00001-of-00003.gguf"
    assert first.exists()
    write(whole, tmp_path / "of_whole.gguf", "Q4_K_M")
    write(first, tmp_path / "of_split.gguf", "Q4_K_M")
    one, other = read_header(tmp_path / "of_whole.gguf"), read_header(tmp_path / "of_split.gguf")
    assert one.tensors == other.tensors and "split.count" not in other.metadata
    data = [file.read_bytes()[header.data_start :] for file, header in ((one.path, one), (other.path, other))]
    assert data[0] == data[1]


# ---- types that are kept higher ------------------------------------------------------------------


def test_keeping_a_tensor_higher_changes_nothing_else(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", **SHAPES["whole blocks"])
    plain = write(model, tmp_path / "plain.gguf", "Q4_K_M").files[0]
    kept = write(model, tmp_path / "kept.gguf", "Q4_K_M", keep=((r"attn_v|ffn_norm", "Q8_0"),)).files[0]
    changed = {
        one.source.name: (one.type_name, other.type_name)
        for one, other in zip(plain.tensors, kept.tensors, strict=True)
        if one.type_name != other.type_name
    }
    assert set(changed) == {f"blk.{layer}.attn_v.weight" for layer in range(2)}
    assert all(new == "Q8_0" for _, new in changed.values())
    assert read_header(tmp_path / "kept.gguf").tensors[-1].offset  # a whole file


def test_a_least_type_never_lowers_and_never_goes_beyond_the_source(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", **SHAPES["whole blocks"])
    for least in ("Q2_K", "F32"):
        plan = write(model, tmp_path / "kept.gguf", "Q5_K_M", keep=(("weight", least),)).files[0]
        for tensor in plan.tensors:
            if tensor.source.type_name == "F16":
                assert 5.5 <= bits(tensor.type_name) <= 16
        if least == "F32":
            assert all(tensor.is_copied for tensor in plan.tensors)


def test_the_sensitive_preset_raises_ends_and_embeddings(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", width=96, feed_forward=96, layers=4)
    plan = write(model, tmp_path / "high.gguf", "Q4_0", sensitive_high=True).files[0]
    types = {tensor.source.name: tensor.type_name for tensor in plan.tensors}
    assert types["token_embd.weight"] == types["output.weight"] == "Q8_0"
    assert types["blk.0.attn_q.weight"] == types["blk.3.ffn_down.weight"] == "Q8_0"  # 96 values: Q6_K cannot hold them
    assert types["blk.1.attn_q.weight"] == types["blk.2.ffn_down.weight"] == "Q4_0"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_what_is_used_instead_is_said(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", **SHAPES["odd widths"])
    (file,) = plan_quantize(QuantizeConfig(source=model, outputs=(("Q4_K_M", tmp_path / "out.gguf"),))).files
    assert any("rows of 96 values, which Q4_K cannot hold: Q5_0 is used instead" in note for note in file.notes)
    assert any("rows of 80 values" in note and "F16 is used instead" in note for note in file.notes)


def test_the_result_answers(tmp_path):
    from localknobs.engine import LoadSettings, load

    write(BUILT_IN, tmp_path / "small.gguf", "Q5_K_M")
    with load(LoadSettings(model=tmp_path / "small.gguf", threads=1, n_ctx=256)) as engine:
        assert engine.info.context_size == 256


def test_the_plan_as_json_is_exact_to_the_byte(tmp_path, capsys):
    from localknobs.cli.main import run

    target = str(tmp_path / "out.gguf")
    assert run(["quantize", str(BUILT_IN), "q4_k", "-o", target, "--dry-run", "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)["files"]
    assert not (tmp_path / "out.gguf").exists() and planned["type"] == "Q4_K_M"
    assert run(["quantize", str(BUILT_IN), "q4_k", "-o", target, "-t", "1", "--json"]) == 0
    (written,) = json.loads(capsys.readouterr().out)["files"]
    tensors = planned.pop("tensors")
    assert planned == written and written["size_bytes"] == (tmp_path / "out.gguf").stat().st_size
    inside = {
        tensor.name: (tensor.type_name, tensor.size_bytes) for tensor in read_header(tmp_path / "out.gguf").tensors
    }
    assert {tensor["name"]: (tensor["to"], tensor["size_bytes"]) for tensor in tensors} == inside


def test_the_time_is_estimated_from_what_the_types_cost(tmp_path):
    model = write_random_model(tmp_path / "model.gguf", **SHAPES["whole blocks"])

    def seconds(file_type, threads):
        outputs = ((file_type, tmp_path / "out.gguf"),)
        return estimated_seconds(plan_quantize(QuantizeConfig(source=model, outputs=outputs, threads=threads)))

    assert seconds("IQ3_S", 1) > 3 * seconds("Q8_0", 1) > 0  # 50 times, when nothing disturbs
    assert seconds("F16", 1) == 0, "what is copied costs no arithmetic"


def test_names_of_types_are_those_of_the_library():
    assert all(name in TYPE_NUMBERS for name in ("Q4_K", "IQ4_XS", "BF16"))
    assert file_type_named("iq4_xs") == "IQ4_XS" and file_type_named("q5_k") == "Q5_K_M"
    with pytest.raises(UnknownName, match="Did you mean Q4_K_S"):
        file_type_named("q4_k_z")
