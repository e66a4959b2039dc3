"""How long a checkpoint of about 0.85B takes to become a BF16 file, beside copying its bytes.

Prints times, their ratio and the peak memory; asserts nothing of them. The copy is of the weights, once as `cp`
leaves it (in the system's memory), as a conversion leaves it too, and once stored on disk. With LOCALKNOBS_LLAMA_CPP
naming llama.cpp's source, its own converter takes part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest
from test_quantize_speed import PROGRAM, run, write_checkpoint

pytestmark = pytest.mark.bench
ROUNDS = 5
TOKENS_OF_A_LARGE_VOCABULARY = 150_000


def large_vocabulary(folder: Path) -> None:
    """Give a checkpoint a tokenizer of the size that large models have, so that its reading counts."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    letters = [text for text in vocabulary if len(text) == 1]
    known = set(vocabulary)
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:5]  # the others have numbers after the old end
    pairs = ((one + other, one, other) for one in [*known] for other in letters)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    for text, one, other in pairs:
        if len(known) >= min(rows, TOKENS_OF_A_LARGE_VOCABULARY) - 8:
            break
        if text not in known:
            known.add(text)
            vocabulary[text] = len(known) - 1
            merges.append([one, other])
    file.write_text(json.dumps(tokenizer))


def timed(command: list[str]) -> float:
    began = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return perf_counter() - began


def test_checkpoint_to_bf16_beside_a_copy(tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    parameters = write_checkpoint(folder)
    large_vocabulary(folder)
    weights, copy, ours, theirs = (
        folder / "model.safetensors",
        *(tmp_path / name for name in ("copy", "a.gguf", "b.gguf")),
    )
    source = os.environ.get("LOCALKNOBS_LLAMA_CPP")
    reference = [
        sys.executable,
        str(Path(source or "") / "convert_hf_to_gguf.py"),
        str(folder),
        "--outfile",
        str(theirs),
    ]
    times: dict[str, list[float]] = {"cp": [], "cp and sync": [], "localknobs convert": [], "llama.cpp's converter": []}
    peak = 0.0
    for _ in range(ROUNDS):  # in turns, so that the machine's moods hit all
        for name in ("cp", "cp and sync"):
            copy.unlink(missing_ok=True)
            subprocess.run(["sync", "-f", str(tmp_path)], check=True)
            took = timed(["cp", str(weights), str(copy)])
            if name != "cp":
                took += timed(["sync", str(copy)])
            times[name].append(took)
        ours.unlink(missing_ok=True)
        subprocess.run(["sync", "-f", str(tmp_path)], check=True)
        took, mib = run([PROGRAM, "convert", str(folder), "--outtype", "bf16", "-o", str(ours)])
        times["localknobs convert"].append(took)
        peak = max(peak, mib)
        if source:
            theirs.unlink(missing_ok=True)
            subprocess.run(["sync", "-f", str(tmp_path)], check=True)
            times["llama.cpp's converter"].append(timed(reference))
    with capsys.disabled():
        print(f"\n{parameters / 1e9:.2f}B to BF16, best of {ROUNDS}")
        print(
            f"  storing alone          {min(times['cp and sync']) - min(times['cp']):6.2f} s, which cp leaves for later"
        )
        for name, found in times.items():
            if found:
                ratios = "  ".join(f"{min(found) / min(times[base]):.2f} x {base}" for base in ("cp", "cp and sync"))
                memory = f"  {peak:.0f} MiB of memory" if name == "localknobs convert" else ""
                print(f"  {name:<22} {min(found):6.2f} s  {ratios}{memory}")
