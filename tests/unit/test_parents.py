"""Which model another was made from: by its card, by its name and size, or not known."""

from __future__ import annotations

from pathlib import Path

from localknobs.ledger import record
from localknobs.library import ModelEntry
from localknobs.library.names import without_quant
from localknobs.library.parents import propose_parent


def entry(folder: Path, name: str, size: int, parameters: int = 1000, **fields) -> ModelEntry:
    path = folder / name
    path.write_bytes(b"x" * size)
    return ModelEntry(path.stem, path, size, architecture="llama", parameters=parameters, **fields)


def test_the_family_is_told_by_name_architecture_and_count_of_weights(tmp_path):
    small, large = entry(tmp_path, "some-Q4_K_M.gguf", 5), entry(tmp_path, "some-F16.gguf", 20)
    middle = entry(tmp_path, "some.Q8_0.gguf", 10)
    other, pruned = entry(tmp_path, "other-F32.gguf", 40), entry(tmp_path, "some-F32.gguf", 30, parameters=900)
    entries = [small, large, middle, other, pruned]
    assert propose_parent(small.path, entries) == (large, "the largest file of its family")
    assert propose_parent(middle.path, entries)[0] is large
    assert propose_parent(large.path, entries) is None
    assert propose_parent(other.path, entries) is None
    assert propose_parent(tmp_path / "elsewhere.gguf", entries) is None


def test_a_card_is_believed_before_a_name(tmp_path):
    parent, child = entry(tmp_path, "mine.gguf", 30, parameters=5), entry(tmp_path, "some-Q4_K_M.gguf", 5)
    large = entry(tmp_path, "some-F16.gguf", 20)
    record([child.path], "quantize", ["mine.gguf"], [parent.path], 1.0)
    assert propose_parent(child.path, [parent, child, large]) == (parent, "its card says so")
    copy = entry(tmp_path, "copy.gguf", 30, parameters=5, also_at=(parent.path,))
    assert propose_parent(child.path, [copy, child, large]) == (copy, "its card says so"), "listed by another place"
    assert propose_parent(child.path, [child, large])[0] is large, "the parent of the card is gone"


def test_names_without_their_quant():
    names = ("Qwen3-4B-Q4_K_M.gguf", "llama.Q8_0.gguf", "x-UD-Q2_K_XL-00001-of-00002.gguf", "plain.gguf", "F16.gguf")
    assert [without_quant(name) for name in names] == ["Qwen3-4B", "llama", "x", "plain", ""]
