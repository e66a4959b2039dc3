"""The header reader on good, broken and hostile files: always an answer or an error of ours, never a long run."""

import io
import os
import random
import struct

import pytest
from gguf_files import ARRAY, BOOL, F32, TEXT, U32, U64, gguf_bytes, gguf_key, gguf_text, small_gguf
from real_size_files import write_real_size

from localknobs.errors import BadFile, LocalknobsError, NotFound, Unsupported
from localknobs.ggml_types import FILE_TYPES, GGML_TYPES
from localknobs.gguf_info import ArrayInfo, check_is_model, parse_header, read_header, shard_paths


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "a.gguf"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def head(keys: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def test_a_small_file_is_read_whole(write):
    header = read_header(write(small_gguf()))
    assert (header.name, header.architecture, header.kind) == ("Small", "llama", "model")
    assert (header.parameters, header.tensor_bytes, header.context_trained) == (160, 640, 128)
    assert header.number("embedding_length") == 32 and header.quant == "F32"
    check_is_model(header)


def test_the_built_in_model_is_read_and_is_a_model(built_in):
    header = read_header(built_in)
    check_is_model(header)
    assert header.architecture == "llama" and header.chat_template and header.context_trained > 0
    assert 1 < header.bits_per_weight <= 32


def test_types_agree_with_the_gguf_package():
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

    for kind, (block, size) in GGML_QUANT_SIZES.items():
        if kind.name == "Q8_1":
            size = (
                36  # the package says 40, from before ggml made its two scales half floats (ggml-common.h, block_q8_1)
            )
        assert GGML_TYPES[kind.value] == (kind.name, block, size)
    known_there = {kind.value for kind in GGMLQuantizationType}
    assert {number for number in GGML_TYPES if number not in known_there} <= {40, 41, 42}, "newer than the package"
    for kind in LlamaFileType:
        if kind.value in FILE_TYPES:
            assert kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") == FILE_TYPES[kind.value]


def test_cut_anywhere_it_is_an_error_that_names_the_file(write):
    whole = small_gguf()
    for length in range(0, len(whole), 7):
        file = write(whole[:length])
        with pytest.raises((BadFile, Unsupported), match=r"a\.gguf"):
            read_header(file)


def test_any_byte_changed_it_is_an_answer_or_an_error_of_ours(write):
    whole = small_gguf()
    for place in range(0, 400, 3):
        for value in (0x00, 0x7F, 0xFF):
            changed = bytearray(whole)
            changed[place] = value
            try:
                header = read_header(write(bytes(changed)))
                check_is_model(header)
                _ = header.quant, header.sampling, header.parameters, header.bits_per_weight, header.chat_template
                header.number("block_count")
            except LocalknobsError as error:
                assert error.message and error.hint


@pytest.mark.parametrize(
    "data",
    [
        head(keys=2**64 - 1),
        head(tensors=2**64 - 1),
        head(keys=1) + gguf_text("k") + struct.pack("<IIQ", ARRAY, U64, 2**61),
        head(keys=1) + gguf_text("k") + struct.pack("<IIQ", ARRAY, TEXT, 2**61),
        head(keys=1) + gguf_text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", U32, 1),
        head(keys=1) + gguf_text("k") + struct.pack("<IQ", TEXT, 2**63),
        head(keys=1) + struct.pack("<Q", 2**64 - 1),
        head(keys=1) + gguf_text("k") + struct.pack("<I", 99),
        gguf_bytes([gguf_key("general.alignment", U32, 0)]),
        gguf_bytes([gguf_key("general.alignment", U32, 24)]),
        gguf_bytes([gguf_key("general.alignment", TEXT, "x")]),
        gguf_bytes([], {"t": ((2**63, 2**63, 2**63), 0, 0)}),
        gguf_bytes([], {"t": ((1, 1, 1, 1, 1), 0, 0)}),
        gguf_bytes([], {"t": ((31,), 2, 0)}),
        gguf_bytes([], {"t": ((32,), 0, 2**64 - 1)}),
    ],
)
def test_counts_that_cannot_be_true_are_refused(write, data):
    with pytest.raises(BadFile):
        read_header(write(data))


def test_an_array_of_more_texts_than_any_vocabulary_is_refused_by_its_count_and_not_walked_through(tmp_path):
    file = tmp_path / "texts.gguf"
    with file.open("wb") as out:
        out.write(head(keys=1) + gguf_text("k") + struct.pack("<IIQ", ARRAY, TEXT, 500_000_000))
        out.truncate(5 * 2**30)  # a hole: takes no disk
    with pytest.raises(BadFile, match="claims 500,000,000 texts"):
        read_header(file)


def test_unknown_tensor_type_and_version_are_named(write):
    with pytest.raises(Unsupported, match="unknown type 77"):
        read_header(write(gguf_bytes([], {"t": ((32,), 77, 0)}, data=b"\0" * 32)))
    for version in (0, 1, 4, 2**32 - 1):
        with pytest.raises(BadFile, match="version"):
            read_header(write(head(version=version)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n  <html lang=en>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS pointer"),
        (b"lmgg" + b"\0" * 60, "old GGML"),
        (b"tjgg" + b"\0" * 60, "old GGML"),
        (b"PK\x03\x04", "checkpoint"),
        (b'\x40\0\0\0\0\0\0\0{"__metadata__":{}}', "checkpoint"),
        (b"GGU", "not a GGUF"),
        (random.Random(3).randbytes(600).replace(b"GGUF", b""), "not a GGUF"),
    ],
)
def test_what_is_no_gguf_is_called_by_its_name(write, data, says):
    with pytest.raises(BadFile, match=says):
        read_header(write(data))


def test_what_is_no_file_is_told_and_never_waited_for(tmp_path):
    with pytest.raises(NotFound):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(BadFile, match="folder"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(BadFile, match="no ordinary file"):
        read_header(tmp_path / "pipe.gguf")


def test_short_arrays_are_kept_and_long_ones_counted(write):
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("llama.attention.head_count_kv", ARRAY, [4, 8]),
        gguf_key("tokenizer.ggml.tokens", ARRAY, ["a"] * 1000, TEXT),
        gguf_key("tokenizer.ggml.scores", ARRAY, [0.5] * 1000, F32),
    ]
    header = read_header(write(gguf_bytes(keys)))
    assert header.per_layer("attention.head_count_kv") == (4, 8)
    assert header.metadata["tokenizer.ggml.tokens"] == ArrayInfo(1000, TEXT)
    assert header.metadata["tokenizer.ggml.scores"] == ArrayInfo(1000, F32)


def test_recommended_sampling_is_rounded_and_nonsense_left_out(write):
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("general.sampling.top_p", F32, 0.9),
        gguf_key("general.sampling.temp", F32, 99.0),
        gguf_key("general.sampling.top_k", BOOL, True),
        gguf_key("general.sampling.min_p", F32, float("nan")),
    ]
    assert read_header(write(gguf_bytes(keys))).sampling == {"top_p": 0.9}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([gguf_key("general.type", TEXT, "adapter")], "LoRA adapter"),
        ([gguf_key("general.type", TEXT, "mmproj")], "image projector"),
        ([gguf_key("general.type", TEXT, "imatrix")], "importance matrix"),
        ([], "no architecture"),
    ],
)
def test_what_is_no_model_is_refused_by_name(write, keys, says):
    with pytest.raises(BadFile, match=says):
        check_is_model(read_header(write(gguf_bytes(keys))))


def test_rope_scaling_on_which_llama_cpp_aborts_is_refused(write):
    keys = [gguf_key("general.architecture", TEXT, "llama"), gguf_key("llama.rope.scaling.type", TEXT, "dynamic")]
    with pytest.raises(Unsupported, match="dynamic"):
        check_is_model(read_header(write(gguf_bytes(keys))))


def test_a_missing_shard_is_named(write):
    keys = [gguf_key("general.architecture", TEXT, "llama"), gguf_key("split.count", 2, 3)]
    header = read_header(write(gguf_bytes(keys), "m-00001-of-00003.gguf"))
    write(gguf_bytes(), "m-00002-of-00003.gguf")
    assert [path.name for path in shard_paths(header)] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    with pytest.raises(BadFile, match="m-00003-of-00003"):
        check_is_model(header)


def test_a_later_shard_is_refused_for_what_it_is(write):
    # As gguf-split writes them: only the first file names an architecture.
    keys = [gguf_key("split.no", 2, 1), gguf_key("split.count", 2, 3), gguf_key("split.tensors.count", 5, 9)]
    with pytest.raises(BadFile, match="file 2 of 3 of a split model") as refused:
        check_is_model(read_header(write(gguf_bytes(keys), "m-00002-of-00003.gguf")))
    assert "-00001-of-00003.gguf" in refused.value.hint


# ---- streams, and listings -----------------------------------------------------------------------


class Ranges(io.RawIOBase):
    """A file far away: it returns at most 1,000 bytes a read, and counts what was fetched."""

    def __init__(self, file):
        self.file, self.fetched = file.open("rb"), 0

    def seek(self, offset, whence=0):
        return self.file.seek(offset, whence)

    def read(self, size=-1):
        piece = self.file.read(min(size, 1000))
        self.fetched += len(piece)
        return piece


def plain(header):
    kept = {key: value for key, value in header.metadata.items() if not (isinstance(value, str) and len(value) > 4096)}
    return kept, header.tensors, header.data_start, header.key_ends


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_real_size(tmp_path_factory.mktemp("large") / "m.gguf", tokens=30_000, merges=50_000)


def test_a_header_is_read_from_any_stream_that_returns_less_than_asked(large):
    far = parse_header(Ranges(large), large.stat().st_size, "org/repo/m.gguf")
    here = read_header(large)
    assert plain(far) == plain(here) and far.path.name == "m.gguf"
    with pytest.raises(BadFile, match="org/repo/x.gguf is cut short"):
        parse_header(io.BytesIO(large.open("rb").read(500_000)), 500_000, "org/repo/x.gguf")
    with pytest.raises(BadFile, match="cut short"):  # the stream ends before the size it was said to have
        parse_header(io.BytesIO(large.open("rb").read(5000)), large.stat().st_size, "x.gguf")


def test_skimmed_it_says_the_same_and_reads_a_fraction(large):
    whole, skimmed = read_header(large), read_header(large, skim=True)
    assert plain(skimmed) == plain(whole) and skimmed.quant == "Q4_K_M"
    assert whole.chat_template and not skimmed.chat_template, "long texts are left out of a listing"
    stream = Ranges(large)
    parse_header(stream, large.stat().st_size, large, skim=True)
    assert stream.fetched < whole.data_start / 4


@pytest.mark.parametrize(
    "texts",
    [
        [f"general.{number:07}" for number in range(6000)],  # looks like keys
        ["tokenizer." + "x" * (number % 9) for number in range(6000)],
        [""] * 6000,
        ["a" * 5000] * 6000,
        ["\0\0\0\0\0\0\0\0" * (number % 7) for number in range(6000)],
        [os.urandom(number % 40) for number in range(6000)],
    ],
    ids=["keys", "half keys", "empty", "long", "zeros", "random"],
)
@pytest.mark.parametrize("twice", [False, True])
def test_skimmed_it_is_not_fooled_by_what_stands_in_a_vocabulary(write, texts, twice):
    arrays = [gguf_key("tokenizer.ggml.tokens", ARRAY, texts, TEXT)]
    if twice:  # two arrays of texts with nothing between them, which a leap cannot tell apart
        arrays.append(gguf_key("tokenizer.ggml.merges", ARRAY, texts, TEXT))
    keys = [gguf_key("general.architecture", TEXT, "llama"), *arrays, gguf_key("general.file_type", U32, 15)]
    file = write(gguf_bytes(keys, {"a": ((32,), 0, 0), "b": ((32,), 0, 128)}, data=b"\0" * 256))
    assert plain(read_header(file, skim=True)) == plain(read_header(file))


def test_texts_of_many_arrays_are_counted_together(tmp_path, monkeypatch):
    """Each array keeps to the limit, and walking through all of them would take hours."""
    monkeypatch.setattr("localknobs.gguf_info.reader.MAX_TEXTS", 100_000)
    file = tmp_path / "many.gguf"
    array = struct.pack("<IIQ", ARRAY, TEXT, 40_000)
    with file.open("wb") as out:
        out.write(head(keys=60_000))
        for number in range(3):
            out.write(gguf_text(f"k{number}") + array)
            out.seek(8 * 40_000, 1)
        out.truncate(2**40)
    for skim in (False, True):
        with pytest.raises(BadFile, match="claims 40,000 texts"):
            read_header(file, skim=skim)
