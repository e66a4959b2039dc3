"""Headers made hostile, by hand and by chance: always a row or an error of ours, little work, little memory."""

import io
import random
import struct
import subprocess
import sys

import pytest
from gguf_files import ARRAY, TEXT, U32, gguf_bytes, gguf_key, small_gguf
from library_trees import projector, shard

from localknobs.errors import LocalknobsError
from localknobs.gguf_info import check_is_model, parse_header
from localknobs.library.summaries import Summary, read_summary

ODD_NUMBERS = (0, 1, 7, 8, 9, 16, 17, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**61, 2**63, 2**64 - 1)


def with_vocabulary(tokens: int = 4200) -> bytes:
    """Return a file whose vocabulary is long enough to be leapt over."""
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("llama.attention.head_count_kv", ARRAY, [4, 8]),
        gguf_key("tokenizer.ggml.tokens", ARRAY, [f"t{number}" for number in range(tokens)], TEXT),
        gguf_key("tokenizer.ggml.token_type", ARRAY, [1] * tokens, U32),
        gguf_key("general.file_type", U32, 15),
        gguf_key("tokenizer.chat_template", TEXT, "{{ x }}" * 900),
    ]
    return gguf_bytes(keys, {"a": ((32, 8), 0, 0), "b": ((32,), 0, 1024)}, data=b"\0" * 1152)


BASES = (small_gguf(), shard(1, 2), projector(), with_vocabulary())


def mutated(chance: random.Random) -> bytes:
    """Return a file with some of its bytes, lengths and counts changed, cut, repeated or moved."""
    data = bytearray(chance.choices(BASES, (4, 2, 2, 1))[0])
    for _ in range(chance.choice((1, 1, 2, 3, 8, 30))):
        place = chance.randrange(max(1, len(data) - 8))
        if chance.random() < 0.5:  # the interesting part of a long file is its beginning and its end
            place = min(place, chance.randrange(400))
        way = chance.randrange(7)
        if way == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif way == 1:
            data[place] = chance.randrange(256)
        elif way == 2:
            data[place : place + 8] = struct.pack("<Q", chance.choice(ODD_NUMBERS))
        elif way == 3:
            data[place : place + 4] = struct.pack("<I", chance.choice(ODD_NUMBERS) % 2**32)
        elif way == 4:
            del data[place : place + chance.choice((1, 4, 8, 100, len(data)))]
        elif way == 5:
            data[place:place] = data[: chance.randrange(300)]
        else:
            data[place:place] = chance.randbytes(chance.randrange(40))
        if len(data) < 16:
            break
    return bytes(data)


class Counted(io.BytesIO):
    """A file that counts what is done with it."""

    reads = read_bytes = 0

    def read(self, size=-1):
        piece = super().read(size)
        self.reads += 1
        self.read_bytes += len(piece)
        return piece


def survive(data: bytes, path) -> None:
    """Read a file both ways and as the listing does; the work is bounded by its size."""
    for skim in (False, True):
        stream = Counted(data)
        try:
            header = parse_header(stream, len(data), "x.gguf", skim=skim)
            _ = header.quant, header.sampling, header.parameters, header.bits_per_weight, header.shards, header.kind
            _ = header.number("block_count"), header.context_trained
            check_is_model(header)
        except LocalknobsError as error:
            assert error.message and error.hint and len(str(error)) < 10_000
        assert stream.reads < 300 and stream.read_bytes < 8 * len(data) + 2**20
    path.write_bytes(data)
    summary = read_summary(path, path.stat())
    assert isinstance(summary, Summary) and (summary.kind != "unknown" or summary.trouble)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_headers_changed_by_chance_are_an_answer_or_an_error_of_ours(tmp_path, count):
    for number in range(count):
        survive(mutated(random.Random(number)), tmp_path / "x.gguf")


def test_the_changes_reach_every_part_of_the_reader(tmp_path):
    """Were all of them refused at the first byte, the test above would prove nothing."""
    seen = set()
    for number in range(600):
        path = tmp_path / "x.gguf"
        path.write_bytes(mutated(random.Random(number)))
        summary = read_summary(path, path.stat())
        for word in ("version", "keys and", "unknown type", "array claims", "text claims", "cut short inside",
                     "dimensions", "rows of", "ends at", "alignment", "names no architecture"):  # fmt: skip
            if word in summary.trouble:
                seen.add(word)
        seen.add(summary.kind)
    assert len(seen) >= 11, seen


HOSTILE = """
import struct, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from gguf_files import ARRAY, TEXT, U32, U64, gguf_bytes, gguf_key, gguf_text

folder = Path({folder!r})
head = lambda keys, tensors: b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)
long_text = struct.pack("<Q", 60 * 2**20)
files = {{
    "long-key": head(1, 0) + long_text,
    "long-value": head(1, 0) + gguf_text("general.name") + struct.pack("<I", TEXT) + long_text,
    "long-texts": head(1, 0) + gguf_text("k") + struct.pack("<IIQ", ARRAY, TEXT, 16) + struct.pack("<Q", 15 * 2**20),
    "long-tensor": head(0, 1) + long_text,
    "numbers": head(1, 0) + gguf_text("k") + struct.pack("<IIQ", ARRAY, U64, 2**36),
    "texts": head(1, 0) + gguf_text("k") + struct.pack("<IIQ", ARRAY, TEXT, 4_000_000),
    "many-texts": head(60_000, 0) + (gguf_text("k") + struct.pack("<IIQ", ARRAY, TEXT, 4000) + b"\\0" * 32_000) * 9,
    "huge-counts": head(2**64 - 1, 2**64 - 1),
    "keys": head(65_536, 0),
}}
for name, data in files.items():
    with (folder / f"{{name}}.gguf").open("wb") as out:
        out.write(data)
        out.truncate(2**40)  # a hole: zeros that take no disk
wide = "\\N{{GRINNING FACE}}" + "a" * 65_000
(folder / "wide-keys.gguf").write_bytes(head(250, 0) + b"".join(gguf_key(f"{{n}}{{wide}}", U32, 1) for n in range(250)))
shape = struct.pack("<I4QIQ", 4, 2**63, 2**63, 2**63, 0, 0, 0)
tensors = b"".join(gguf_text(f"t{{n:030}}") + shape for n in range(131_072))
(folder / "tensors.gguf").write_bytes(head(1, 131_072) + gguf_key("general.architecture", TEXT, "llama") + tensors)
"""
LISTED = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
from localknobs.library import installed_models
rows = installed_models()
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(rows), sum(not row.usable for row in rows), peak // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_folder_of_hostile_files_is_listed_in_little_memory(home, request):
    folder = home / "data" / "models"
    folder.mkdir(parents=True)
    tests = str(request.config.rootpath / "tests")
    subprocess.run([sys.executable, "-c", HOSTILE.format(folder=str(folder), tests=tests)], check=True)
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows, unusable, peak_mb = map(int, done.stdout.split())
    assert rows == 1 + 11 and unusable == 11
    assert peak_mb < 200, f"the listing took {peak_mb} MB"
