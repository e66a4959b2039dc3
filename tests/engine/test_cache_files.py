"""A conversation's cache put aside and taken back: the same answers, and nothing damaged or foreign reaches C."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
from engine_helpers import ask
from random_model import write_random_model

from localknobs.engine import cache_files
from localknobs.engine.cache_files import MAGIC, evict

TEXT = "The quick brown fox jumps over the lazy dog. " * 6
GREEDY = {"temp": 0.0, "n_predict": 6}
DISK = {"n_ctx": 512, "park_cache": "disk"}


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_random_model(folder / "parked.gguf", context=512, width=128, heads=2, kv_heads=1, never_ends=True)


def files() -> list[Path]:
    return sorted(cache_files.folder().glob("*"))


@pytest.fixture
def saved(open_engine, model) -> tuple[Path, str]:
    """Return the file of a conversation that was left, and how it was answered."""
    engine = open_engine(model, **DISK)
    text = ask(engine, TEXT, GREEDY).text
    done = engine.save_cache("mine")
    engine.close()
    (file,) = files()
    assert done.tokens > 200 and file.stat().st_size > done.size_bytes > 0 and not done.note
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return file, text


def reopened(open_engine: Any, model: Path, **settings: Any) -> tuple[Any, Any]:
    """Return what came of taking the cache back, and the same answer again."""
    engine = open_engine(model, **{**DISK, **settings})
    done = engine.restore_cache("mine")
    answer = ask(engine, TEXT, GREEDY)
    engine.close()
    return done, answer


def test_a_reopened_conversation_needs_no_reading_and_is_answered_the_same(open_engine, model, saved):
    done, answer = reopened(open_engine, model)
    assert done.tokens > 200 and not done.note
    assert answer.stats.prompt_tokens - answer.stats.reused_tokens == 1 and answer.text == saved[1]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"cache_type_k": "q8_0"}, "cache_type_k"),
        ({"rope_scale": 2.0}, "rope_scale"),
        ({"flash_attn": "off"}, "flash_attn"),
    ],
    ids=str,
)
def test_of_other_settings_it_is_ignored_with_a_note(open_engine, model, saved, settings, names):
    done, answer = reopened(open_engine, model, **settings)
    assert not done.tokens and names in done.note and answer.stats.reused_tokens == 0


def test_of_another_model_it_is_ignored(open_engine, folder, saved):
    other = write_random_model(
        folder / "other.gguf", context=512, width=128, heads=2, kv_heads=1, never_ends=True, seed=9
    )
    done, answer = reopened(open_engine, other)
    assert not done.tokens and "another model" in done.note and answer.reason == "length"


def test_the_same_model_under_another_name_is_the_same(open_engine, model, saved, tmp_path):
    copy = shutil.copy(model, tmp_path / "copy.gguf")
    done, answer = reopened(open_engine, Path(copy))
    assert done.tokens and answer.text == saved[1]


def flip(data: bytearray, at: int) -> bytearray:
    data[at] ^= 1
    return data


def lie(data: bytearray) -> bytearray:
    """Claim other tokens, in a header that is otherwise whole."""
    start = len(MAGIC) + 16
    head_length, data_length = struct.unpack_from("<QQ", data, len(MAGIC))
    about = json.loads(data[start : start + head_length])
    about["tokens"] = [*about["tokens"][:-1], -5]
    head = json.dumps(about).encode()
    return bytearray(MAGIC + struct.pack("<QQ", len(head), data_length) + head + data[start + head_length :])


DAMAGE = {
    "a flipped bit at the end": lambda data: flip(data, len(data) - 1),
    "a flipped bit in the middle": lambda data: flip(data, len(data) // 2),
    "cut short": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"more",
    "empty": lambda data: bytearray(),
    "rubbish": lambda data: bytearray(os.urandom(5000)),
    "only the magic": lambda data: bytearray(MAGIC),
    "huge lengths": lambda data: bytearray(MAGIC + struct.pack("<QQ", 2**62, 2**62)),
    "a header that is no JSON": lambda data: flip(data, len(MAGIC) + 16),
    "impossible tokens": lie,
}


def test_what_is_damaged_is_ignored_with_a_note_and_never_given_to_llama_cpp(open_engine, model, saved):
    file, text = saved
    whole = file.read_bytes()
    engine = open_engine(model, **DISK)
    for name, damage in DAMAGE.items():
        file.write_bytes(damage(bytearray(whole)))
        done = engine.restore_cache("mine")
        assert not done.tokens and "not used" in done.note, name
    assert ask(engine, TEXT, GREEDY).text == text
    file.write_bytes(whole)
    assert engine.restore_cache("mine").tokens


def test_what_was_dropped_is_remembered(open_engine, model):
    sinks = {"n_ctx": 256, "park_cache": "disk", "context_full": "sinks", "drop_by": "reread"}
    engine = open_engine(model, **sinks)
    first = ask(engine, TEXT * 3, GREEDY)
    assert engine.save_cache("mine").tokens < 256
    engine.close()
    again = open_engine(model, **sinks)
    assert again.restore_cache("mine").tokens
    answer = ask(again, TEXT * 3, GREEDY)
    assert answer.stats.prompt_tokens - answer.stats.reused_tokens == 1 and answer.text == first.text


def test_in_memory_it_comes_back_within_one_program_and_leaves_no_file(open_engine, model):
    engine = open_engine(model, n_ctx=512, park_cache="ram")
    text = ask(engine, TEXT, GREEDY).text
    engine.save_cache("mine")
    ask(engine, "x" * 300, GREEDY)
    assert engine.restore_cache("mine").tokens and not engine.restore_cache("other").tokens
    answer = ask(engine, TEXT, GREEDY)
    assert answer.stats.prompt_tokens - answer.stats.reused_tokens == 1 and answer.text == text and not files()


def test_off_nothing_is_kept_and_a_limit_holds(open_engine, model):
    engine = open_engine(model, n_ctx=512)
    ask(engine, TEXT, GREEDY)
    assert not engine.save_cache("mine").tokens and not files()
    engine.use_settings({"park_cache": "disk", "park_limit": 0.01})
    assert engine.save_cache("../../mine").tokens, "a name is no path"
    assert len(files()) == 1 and files()[0].parent == cache_files.folder()


def test_those_used_longest_ago_go_first():
    cache_files.folder().mkdir(parents=True)
    for number in range(4):
        file = cache_files.folder() / f"{number}.cache"
        file.write_bytes(b"x" * 1000)
        os.utime(file, (number, number))
    evict(2500)
    assert [file.name for file in files()] == ["2.cache", "3.cache"]


def test_a_full_disk_costs_the_copy_and_not_the_chat(open_engine, model, monkeypatch):
    engine = open_engine(model, **DISK)
    ask(engine, TEXT, GREEDY)
    blocker = cache_files.folder()
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_text("a file where the folder should be")
    done = engine.save_cache("mine")
    assert not done.tokens and "could not be put aside" in done.note
    assert ask(engine, TEXT, GREEDY).reason == "length"
