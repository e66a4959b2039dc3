"""How long a checkpoint of about 0.85B takes to become Q4_K_M, beside llama.cpp's quantizing of a ready BF16 file.

Prints times, their ratio, the peak memory of both, and whether the files are the same; asserts nothing of speed.
`LOCALKNOBS_BENCH_LAYERS` makes the model smaller than its 12 layers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from repository import REPOSITORY

pytestmark = pytest.mark.bench
PROGRAM = str(Path(sys.executable).with_name("localknobs"))
LAYERS = int(os.environ.get("LOCALKNOBS_BENCH_LAYERS", "12"))
WIDTH, FEED_FORWARD, VOCABULARY = 2048, 8192, 32_000
REFERENCE = """
import ctypes, llama_cpp as lib, sys
params = lib.llama_model_quantize_default_params()
params.ftype, params.nthread = 15, int(sys.argv[3])
sys.exit(lib.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def write_checkpoint(folder: Path) -> int:
    """Write a Llama of random BF16 weights; return how many."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "convert"))
    from tiny_checkpoints import write_tokenizer

    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "lm_head.weight": (VOCABULARY, WIDTH)}
    shapes["model.norm.weight"] = (WIDTH,)
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        shapes |= {block + "input_layernorm.weight": (WIDTH,), block + "post_attention_layernorm.weight": (WIDTH,)}
        shapes |= {block + f"self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qo"}
        shapes |= {block + f"self_attn.{name}_proj.weight": (WIDTH // 4, WIDTH) for name in "kv"}
        shapes |= {block + f"mlp.{name}_proj.weight": (FEED_FORWARD, WIDTH) for name in ("gate", "up")}
        shapes[block + "mlp.down_proj.weight"] = (WIDTH, FEED_FORWARD)
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    values = np.random.default_rng(0).standard_normal(1 << 24, np.float32) * 0.02
    some = (values.view(np.uint32) >> 16).astype(np.uint16)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                file.write(some[: min(left, some.size)].tobytes())
                left -= min(left, some.size)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "vocab_size": VOCABULARY,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, "bytes", 384)
    return at // 2


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the peak of its memory in MiB, without the pages of files it maps."""
    began = perf_counter()
    done = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0.0
    while done.poll() is None:
        peak = max(peak, own_mib(done.pid))
        try:
            done.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    assert done.returncode == 0, done.stderr.read().decode()[-2000:]
    return perf_counter() - began, peak


def own_mib(pid: int) -> float:
    """Return the memory of a process that is no file's, in MiB."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def test_checkpoint_to_q4_k_m_beside_llama_quantize_alone(tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    parameters = write_checkpoint(folder)
    ready, theirs, ours = tmp_path / "ready.gguf", tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    run([PROGRAM, "convert", str(folder), "--outtype", "bf16", "-o", str(ready)])
    threads = str(len(os.sched_getaffinity(0)))
    reference = [sys.executable, "-c", REFERENCE, str(ready), str(theirs), threads]
    own = [PROGRAM, "quantize", str(folder), "Q4_K_M", "-o", str(ours), "-t", threads]
    of_gguf = [PROGRAM, "quantize", str(ready), "Q4_K_M", "-o", str(tmp_path / "of_gguf.gguf"), "-t", threads]
    times: dict[str, list[tuple[float, float]]] = {"theirs": [], "ours": [], "of_gguf": []}
    for _ in range(2):  # in turns, so that the machine's moods hit all
        for name, command in (("theirs", reference), ("ours", own), ("of_gguf", of_gguf)):
            times[name].append(run(command))
    best = {name: min(found) for name, found in times.items()}
    with capsys.disabled():
        print(f"\ncheckpoint of {parameters / 1e9:.2f}B to Q4_K_M on {threads} threads")
        for name, title in (
            ("theirs", "llama.cpp, from a ready BF16 file"), ("ours", "localknobs, from the checkpoint"),
            ("of_gguf", "localknobs, from the BF16 file"),
        ):  # fmt: skip
            seconds, peak = best[name]
            ratio = seconds / best["theirs"][0]
            print(f"  {title:<34} {seconds:6.1f} s  ratio {ratio:.2f}  {peak:6.0f} MiB of memory")
        print(f"  the same bytes: {ours.read_bytes() == theirs.read_bytes()}")
