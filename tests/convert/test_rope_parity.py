"""Linear, NTK-aware and YaRN scaling compute what transformers computes, beyond the trained length too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversions import convert_to
from repository import REPOSITORY
from tiny_checkpoints import write_tokenizer

from localknobs.convert.rope_keys import rope_keys
from localknobs.convert.set_keys import write_with_keys
from localknobs.engine import LoadSettings
from localknobs.engine.target_length import target_length
from localknobs.gguf_info import read_header
from localknobs.jobs import drain

TRAINED, LENGTH, FACTOR, BASE = 128, 320, 2.5, 10_000.0
TOKENS = [int(token) for token in np.random.default_rng(2).integers(5, 370, LENGTH)]
THEIRS: dict[str, dict[str, Any]] = {
    "none": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": FACTOR},
    # Their `dynamic` at this length has the base of our factor: 1 * 320 / 128 - (1 - 1) = 2.5.
    "ntk": {"rope_type": "dynamic", "factor": 1.0, "original_max_position_embeddings": TRAINED},
    "yarn": {"rope_type": "yarn", "factor": FACTOR, "original_max_position_embeddings": TRAINED},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a converted tiny model, and transformers' logits of it by method."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("rope")

    def config(rope: dict[str, Any]) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=384, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=64, max_position_embeddings=TRAINED, tie_word_embeddings=False,
            attn_implementation="eager", rope_parameters={"rope_theta": BASE, **rope}, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip

    model = LlamaForCausalLM(config(THEIRS["none"])).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:  # sharp attention, so that a wrong position shows
                weight.normal_(0, (2.0 if "q_proj" in name or "k_proj" in name else 1.0) * weight.shape[1] ** -0.5)
        model.model.embed_tokens.weight.normal_(0, 1)
    model.save_pretrained(folder / "checkpoint")
    write_tokenizer(folder / "checkpoint", "bytes")
    logits = {}
    for name, rope in THEIRS.items():
        other = LlamaForCausalLM(config(rope)).float().eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            logits[name] = other(torch.tensor([TOKENS])).logits[0].numpy()
    return convert_to(folder / "model.gguf", folder / "checkpoint"), logits


def our_logits(model: Path, settings: dict[str, Any], out: Path) -> Any:
    script = REPOSITORY / "tests" / "engine" / "settings_logits.py"
    command = [sys.executable, str(script), str(model), json.dumps(settings), json.dumps(TOKENS), str(out)]
    subprocess.run(command, check=True)
    return np.load(out)


def test_every_method_computes_what_transformers_computes_beyond_the_trained_length(models, tmp_path, capsys):
    model, theirs = models
    header = read_header(model)
    assert header.context_trained == TRAINED
    proposal = target_length(header, LENGTH)
    ways = {way.name: dict(way.settings) for way in (proposal.proposed, *proposal.others)}
    assert set(ways) == {"linear", "ntk", "yarn"} and ways["yarn"]["rope_scale"] == FACTOR
    rows = []
    for name in THEIRS:
        settings = ways.get(name, {})
        by_flags = our_logits(model, settings, tmp_path / "flags.npy")
        from_file = by_flags
        if settings:
            written = tmp_path / f"{name}.gguf"
            keys, without = rope_keys(header, LoadSettings(model=model, **settings))
            drain(write_with_keys(header, keys, without, written))
            assert read_header(written).context_trained == LENGTH
            from_file = our_logits(written, {}, tmp_path / "file.npy")
        difference = np.abs(by_flags - theirs[name])
        unscaled = np.abs(theirs[name] - theirs["none"])[TRAINED:].max()
        rows.append((
            name, difference[:TRAINED].max(), difference[TRAINED:].max(), np.abs(from_file - theirs[name]).max(),
            unscaled,
        ))  # fmt: skip
    with capsys.disabled():
        print(f"\nLogits against transformers, {LENGTH} tokens on a model trained with {TRAINED}, largest difference:")
        print(f"{'method':8} {'within':>9} {'beyond':>9} {'from file':>9}   moves logits by")
        for name, within, beyond, file, moved in rows:
            print(f"{name:8} {within:9.1e} {beyond:9.1e} {file:9.1e}   {moved:.2f}")
    for name, within, beyond, file, moved in rows:
        assert max(within, beyond, file) < 1e-3, name
        assert moved > 0.5 or name == "none", f"{name} would pass unscaled"
