"""Importance: the numbers against a plain recomputation in numpy, the file format, merging, stopping and resuming."""

from __future__ import annotations

import os
import signal
import struct

import gguf
import numpy as np
import pytest
from random_model import BEGIN, byte_tokens, write_random_model

from localknobs.convert.imatrix import ImatrixConfig, compute_imatrix, plan_imatrix, shipped_text
from localknobs.convert.imatrix_collect import added, added_by_expert
from localknobs.convert.imatrix_file import Entry, Imatrix, merged, read_imatrix, write_imatrix
from localknobs.errors import BadFile, BadValue, EngineDied, NotFound
from localknobs.gguf_info import read_header
from localknobs.jobs import Advanced, Measured, Noted, Started, Wrote, drain

HEADS, KV_HEADS, CHUNK = 4, 2, 64
TEXT = "".join(chr(33 + (at * at + 7 * at) % 90) for at in range(5 * CHUNK + 20))
"""Letters that are one token each, five chunks and some more."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("model") / "model.gguf", heads=HEADS, kv_heads=KV_HEADS)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def compute(model, output, text, **fields):
    fields = {"chunk_tokens": CHUNK, **fields}
    return compute_imatrix(plan_imatrix(ImatrixConfig(model=model, output=output, text=text, threads=1, **fields)))


def plain_sums(model, chunks):
    """Run a Llama of two layers in numpy; return for each matrix the squares of its inputs, and the mean surprise."""
    weights = {tensor.name: tensor.data.astype(np.float64) for tensor in gguf.GGUFReader(model).tensors}
    sums, surprise = {}, []

    def times(name, inputs):
        sums[name] = sums.get(name, 0) + (inputs**2).sum(axis=0)
        return inputs @ weights[name].T

    def norm(name, inputs):
        return inputs / np.sqrt((inputs**2).mean(axis=-1, keepdims=True) + 1e-5) * weights[name]

    def turn(rows):  # neighbouring values are turned together
        size = rows.shape[-1]
        angles = np.arange(len(rows))[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        even, odd = rows[..., 0::2], rows[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(rows.shape)

    for tokens in chunks:
        hidden = weights["token_embd.weight"][tokens]
        count, width = hidden.shape
        for layer in range(2):
            block = f"blk.{layer}."
            inputs = norm(block + "attn_norm.weight", hidden)
            query = turn(times(block + "attn_q.weight", inputs).reshape(count, HEADS, -1))
            key = turn(times(block + "attn_k.weight", inputs).reshape(count, KV_HEADS, -1))
            value = times(block + "attn_v.weight", inputs).reshape(count, KV_HEADS, -1)
            key, value = (part.repeat(HEADS // KV_HEADS, axis=1) for part in (key, value))
            scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(query.shape[-1])
            scores[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            seen = np.einsum("hqk,khd->qhd", shares, value).reshape(count, width)
            hidden = hidden + times(block + "attn_output.weight", seen)
            inputs = norm(block + "ffn_norm.weight", hidden)
            gate = times(block + "ffn_gate.weight", inputs)
            inner = gate / (1 + np.exp(-gate)) * times(block + "ffn_up.weight", inputs)
            hidden = hidden + times(block + "ffn_down.weight", inner)
        logits = times("output.weight", norm("output_norm.weight", hidden))
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        surprise.append([-logits[at, tokens[at + 1]] for at in range(count // 2, count - 1)])
    return sums, float(np.mean(surprise))


def test_the_numbers_are_those_of_a_plain_recomputation(model, text, tmp_path):
    output = tmp_path / "imatrix.gguf"
    events = []
    assert drain(compute(model, output, text, process_output=True), events.append) == output
    tokens = [BEGIN, *byte_tokens(TEXT)]
    chunks = [[BEGIN, *tokens[at * CHUNK + 1 : (at + 1) * CHUNK]] for at in range(5)]
    sums, surprise = plain_sums(model, chunks)
    matrix = read_imatrix(output)
    assert set(matrix.entries) == set(sums) and len(sums) == 15
    for name, entry in matrix.entries.items():
        assert entry.counts.tolist() == [5 * CHUNK]
        # The attention keeps keys and values in 16 bits; everything before it agrees to 1e-6.
        np.testing.assert_allclose(entry.sums[0], sums[name], rtol=3e-3, err_msg=name)
        assert abs(entry.sums.sum() / sums[name].sum() - 1) < 1e-4, name
    np.testing.assert_allclose(matrix.entries["blk.0.attn_q.weight"].sums[0], sums["blk.0.attn_q.weight"], rtol=1e-5)
    assert (matrix.datasets, matrix.chunk_count, matrix.chunk_size) == (("text.txt",), 5, CHUNK)
    measured = [event for event in events if isinstance(event, Measured)]
    assert len(measured) == 5 and abs(np.log(measured[-1].value) - surprise) < 1e-3
    assert sum(event.amount for event in events if isinstance(event, Advanced)) == 5 * CHUNK
    assert events[-1] == Wrote(output) and not list(tmp_path.glob(".*"))


def test_sums_are_those_of_32_bits_row_after_row_as_llama_imatrix_adds_them():
    squares = np.random.default_rng(0).exponential(1.0, (20_000, 3)).astype(np.float32)
    by_hand = np.zeros(3, np.float32)
    for row in squares:
        by_hand += row
    exact = squares.sum(axis=0, dtype=np.float64)
    assert (np.abs(by_hand / exact - 1) > 3e-6).any()  # so that the order and the bits matter
    halves = added(added(np.zeros(3), squares[:7_000]), squares[7_000:])
    assert halves.tolist() == by_hand.tolist()
    assert added(np.zeros(1), squares[:, :1]).tolist() == by_hand[:1].tolist()


def test_an_expert_adds_all_first_choices_before_all_second_ones():
    random = np.random.default_rng(1)
    chosen = random.integers(0, 3, (5_000, 2)).astype(np.int32)  # of 4 experts: nobody chooses the last
    for kinds in (1, 2):  # one input for all choices, or one each
        squares = random.exponential(1.0, (5_000, kinds, 4)).astype(np.float32)
        sums, counts = np.zeros((4, 4), np.float32), [0] * 4
        for place in range(2):
            for token in range(5_000):
                sums[chosen[token, place]] += squares[token, place % kinds]
                counts[chosen[token, place]] += 1
        once = added_by_expert(None, squares, chosen, 4)
        assert once.sums.tolist() == sums.tolist() and once.counts.tolist() == counts
        twice = added_by_expert(once, squares, chosen, 4)
        assert twice.counts.tolist() == [2 * count for count in counts] and once.counts.tolist() == counts


def test_the_output_matrix_is_left_out_unless_asked_for(model, text, tmp_path):
    drain(compute(model, tmp_path / "imatrix.gguf", text, chunks=1))
    names = set(read_imatrix(tmp_path / "imatrix.gguf").entries)
    assert len(names) == 14 and "output.weight" not in names
    # Those of the last layer are there too, over all tokens: every token's logits are asked for.
    assert read_imatrix(tmp_path / "imatrix.gguf").entries["blk.1.ffn_down.weight"].counts.tolist() == [CHUNK]


def test_experts_are_counted_by_the_tokens_they_get(text, tmp_path):
    model = write_experts(tmp_path / "experts.gguf")
    drain(compute(model, tmp_path / "imatrix.gguf", text))
    matrix = read_imatrix(tmp_path / "imatrix.gguf")
    router = matrix.entries["blk.0.ffn_gate_inp.weight"]
    up, down = matrix.entries["blk.0.ffn_up_exps.weight"], matrix.entries["blk.0.ffn_down_exps.weight"]
    assert router.counts.tolist() == [5 * CHUNK]
    assert len(up.counts) == 4 and up.counts.sum() == 2 * 5 * CHUNK and (up.counts == down.counts).all()
    # Each token goes to two experts: what they read adds up to twice what the router reads.
    np.testing.assert_allclose(up.sums.sum(axis=0), 2 * router.sums[0], rtol=1e-5)
    assert up.sums.shape == (4, 64) and down.sums.shape == (4, 32) and (down.sums[down.counts > 0] > 0).any()


def write_experts(path):
    """Write a random model with four experts, two a token."""
    import random_model

    writer = random_model._writer(
        path, layers=1, width=64, heads=HEADS, kv_heads=HEADS, feed_forward=32, context=512, fillers=(), added=(),
        template=None, keys={"llama.expert_count": 4, "llama.expert_used_count": 2},
    )  # fmt: skip
    random = np.random.default_rng(3)
    shapes = {
        "token_embd": (261, 64), "output": (261, 64), "blk.0.attn_q": (64, 64), "blk.0.attn_k": (64, 64),
        "blk.0.attn_v": (64, 64), "blk.0.attn_output": (64, 64), "blk.0.ffn_gate_inp": (4, 64),
        "blk.0.ffn_gate_exps": (4, 32, 64), "blk.0.ffn_up_exps": (4, 32, 64), "blk.0.ffn_down_exps": (4, 64, 32),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, np.float32) / 8)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, np.float32))
    random_model._finish(writer)
    return path


# ---- stopped and resumed -------------------------------------------------------------------------


def test_a_stopped_run_is_taken_up_where_it_stood(model, text, tmp_path):
    drain(compute(model, tmp_path / "whole.gguf", text))
    output = tmp_path / "imatrix.gguf"
    output.write_bytes(b"old")
    running = compute(model, output, text)
    while not isinstance(next(running), Measured):
        pass
    running.close()
    assert output.read_bytes() == b"old"
    state = read_imatrix(tmp_path / ".imatrix.gguf.resume")
    assert 1 <= state.chunk_count <= 5
    events = []
    drain(compute(model, output, text), events.append)
    assert any(isinstance(event, Noted) and f"after chunk {state.chunk_count} of 5" in event.text for event in events)
    one, other = read_imatrix(tmp_path / "whole.gguf"), read_imatrix(output)
    assert other.chunk_count == 5 and not other.extra and not list(tmp_path.glob(".*"))
    for name, entry in one.entries.items():
        assert entry.counts.tolist() == other.entries[name].counts.tolist()
        assert entry.sums.tolist() == other.entries[name].sums.tolist()


def test_another_text_or_a_wish_begins_anew(model, text, tmp_path):
    output, state = tmp_path / "imatrix.gguf", tmp_path / ".imatrix.gguf.resume"
    running = compute(model, output, text)
    while not isinstance(next(running), Measured):
        pass
    running.close()
    config = {"model": model, "output": output, "chunk_tokens": CHUNK}
    assert plan_imatrix(ImatrixConfig(**config, text=text)).resume
    assert not plan_imatrix(ImatrixConfig(**config, text=text, restart=True)).resume
    assert not plan_imatrix(ImatrixConfig(**{**config, "chunk_tokens": 32}, text=text)).resume
    text.write_text(TEXT + "more", encoding="utf-8")
    assert not plan_imatrix(ImatrixConfig(**config, text=text)).resume
    state.write_bytes(state.read_bytes()[:100])
    text.write_text(TEXT, encoding="utf-8")
    assert not plan_imatrix(ImatrixConfig(**config, text=text)).resume


def test_a_worker_that_dies_is_an_error_and_leaves_the_old_file(model, text, tmp_path, monkeypatch):
    from localknobs.engine import process

    workers = []
    monkeypatch.setattr(
        "localknobs.convert.imatrix.WorkerProcess",
        lambda command: workers.append(process.WorkerProcess(command)) or workers[-1],
    )
    output = tmp_path / "imatrix.gguf"
    output.write_bytes(b"old")
    running = compute(model, output, text)
    assert isinstance(next(running), Started)
    running.send(None)
    os.kill(workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(EngineDied):
        drain(running)
    assert output.read_bytes() == b"old"


# ---- refused -------------------------------------------------------------------------------------


def test_texts_and_sizes_that_cannot_be_used(model, text, tmp_path):
    def plan(**fields):
        fields = {"model": model, "output": tmp_path / "out.gguf", "text": text, **fields}
        return plan_imatrix(ImatrixConfig(**fields))

    with pytest.raises(BadValue, match="input itself"):
        plan(output=text)
    with pytest.raises(BadValue, match="A chunk cannot have 8 tokens"):
        plan(chunk_tokens=8)
    with pytest.raises(NotFound, match=r"none\.txt"):
        plan(text=tmp_path / "none.txt")
    with pytest.raises(BadValue, match="nothing to do"):
        plan(model=None)
    text.write_bytes(b"caf\xe9 " * 50)
    with pytest.raises(BadFile, match="not UTF-8 text: byte 3"):
        plan()
    text.write_text("short", encoding="utf-8")
    with pytest.raises(BadValue, match=r"The text has 6 tokens, and a chunk takes 64"):
        drain(compute(model, tmp_path / "out.gguf", text))
    assert sorted(tmp_path.iterdir()) == [text]


def test_weights_that_overflow_are_refused(text, tmp_path):
    model = write_random_model(tmp_path / "model.gguf")
    header = read_header(model)
    (tensor,) = [tensor for tensor in header.tensors if tensor.name == "blk.0.ffn_up.weight"]
    with model.open("r+b") as file:
        file.seek(header.data_start + tensor.offset)
        file.write(np.float32(np.nan).tobytes())
    with pytest.raises(BadFile, match=r"input of blk\.\d\.\w+\.weight is not finite"):
        drain(compute(model, tmp_path / "out.gguf", text))
    assert not (tmp_path / "out.gguf").exists()


# ---- files ---------------------------------------------------------------------------------------


def entries(value, count, columns=3, matrices=1):
    return Entry(np.full((matrices, columns), float(value)), np.full(matrices, count))


def test_the_file_is_that_of_llama_imatrix(tmp_path):
    file = tmp_path / "imatrix.gguf"
    write_imatrix(Imatrix({"b": entries(2, 4), "a": entries(3, 5, 2, 2)}, ("x", "y"), 7, 512), file)
    reader = gguf.GGUFReader(file)
    assert [tensor.name for tensor in reader.tensors] == ["a.in_sum2", "a.counts", "b.in_sum2", "b.counts"]
    assert [tensor.shape.tolist() for tensor in reader.tensors] == [[2, 2], [1, 2], [3, 1], [1, 1]]
    keys = [key for key in reader.fields if not key.startswith("GGUF.")]
    assert keys == ["general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"]
    assert reader.fields["imatrix.datasets"].contents() == ["x", "y"]
    again = read_imatrix(file)
    assert again.entries["a"].counts.tolist() == [5, 5] and again.entries["b"].means().tolist() == [0.5] * 3
    assert read_header(file).kind == "imatrix"


def test_a_look_that_fails_goes_on_computing_and_is_kept(monkeypatch):
    """Were it to raise or to say no, llama.cpp would compute no further and return the last call's numbers."""
    from localknobs.convert.imatrix_collect import Collector

    collector = Collector(process_output=False)
    monkeypatch.setattr(collector, "_take", lambda pointer: 1 / 0)
    assert collector.on_tensor(1, False, None) is True
    assert isinstance(collector.failure, ZeroDivisionError)
    assert collector.on_tensor(1, True, None) is False and collector.on_tensor(1, False, None) is True


def test_merging_adds_sums_and_counts(tmp_path):
    one = Imatrix({"a": entries(2, 4), "b": entries(1, 1)}, ("x",), 2, 512)
    other = Imatrix({"a": entries(3, 6)}, ("x", "y"), 3, 512)
    both = merged([one, other])
    assert both.entries["a"].sums.tolist() == [[5.0] * 3] and both.entries["a"].counts.tolist() == [10]
    assert set(both.entries) == {"a", "b"} and both.datasets == ("x", "y") and both.chunk_count == 5
    with pytest.raises(BadValue, match="do not fit together"):
        merged([one, Imatrix({"a": entries(3, 6, columns=4)}, (), 1, 512)])


def test_merging_files_needs_no_model(tmp_path, capsys):
    from localknobs.cli.main import run

    for name, value in (("one", 2), ("two", 4)):
        write_imatrix(Imatrix({"a": entries(value, 4)}, (name,), 2, 512), tmp_path / f"{name}.gguf")
    files = [word for name in ("one", "two") for word in ("--in-file", str(tmp_path / f"{name}.gguf"))]
    assert run(["imatrix", *files, "-o", str(tmp_path / "both.gguf")]) == 0
    assert read_imatrix(tmp_path / "both.gguf").entries["a"].means().tolist() == [0.75] * 3


def test_earlier_measurements_are_added(model, text, tmp_path):
    drain(compute(model, tmp_path / "one.gguf", text))
    drain(compute(model, tmp_path / "two.gguf", text, merge=(tmp_path / "one.gguf",)))
    one, two = (read_imatrix(tmp_path / name).entries["blk.0.attn_q.weight"] for name in ("one.gguf", "two.gguf"))
    assert two.counts.tolist() == (2 * one.counts).tolist()
    np.testing.assert_allclose(two.sums, 2 * one.sums, rtol=1e-6)


def test_the_older_format_is_read(tmp_path):
    file = tmp_path / "imatrix.dat"
    name, values = b"blk.0.attn_q.weight", np.array([2.0, 4.0], "<f4")
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii", 2, len(values)) + values.tobytes()
    file.write_bytes(struct.pack("<i", 1) + entry + struct.pack("<ii", 9, 4) + b"text")
    matrix = read_imatrix(file)
    assert matrix.entries[name.decode()].means().tolist() == [1.0, 2.0]
    assert matrix.chunk_count == 9 and matrix.datasets == ("text",)
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(BadFile, match="no importance matrix"):
        read_imatrix(file)


def test_the_text_that_is_shipped_is_long_and_of_many_kinds():
    text = shipped_text().read_text(encoding="utf-8")
    assert 20_000 < len(text.encode()) < 40_000
    assert all(
        kind in text for kind in ("def ", "#include", "SELECT", "Proof.", "Assistant:", '{"id"', "das", "les", "的")
    )
