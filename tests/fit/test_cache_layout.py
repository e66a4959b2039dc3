"""The cache of windowed and latent models, in the check before a load and in what `show` prints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from shaped_models import SMALL, write_shaped_model

import localknobs.engine.checks
from localknobs.cli.main import run
from localknobs.engine.cache_layout import cache_bytes
from localknobs.engine.checks import plan_context
from localknobs.engine.settings import LoadSettings
from localknobs.errors import NotEnough
from localknobs.gguf_info import read_header


@pytest.fixture(params=["llama", "gemma3", "deepseek2"])
def header(request, tmp_path):
    return read_header(write_shaped_model(tmp_path / "some-Q8_0.gguf", SMALL[request.param]))


def test_the_context_that_is_chosen_is_the_largest_whose_cache_takes_half_of_the_memory(header, monkeypatch):
    settings = LoadSettings(model=header.path)
    wanted = header.context_trained // 2
    budget = cache_bytes(header, replace(settings, n_ctx=wanted))
    free = header.path.stat().st_size + 2 * budget
    monkeypatch.setattr(localknobs.engine.checks, "available_memory_bytes", lambda: free)
    assert plan_context(header, settings).size == wanted
    monkeypatch.setattr(localknobs.engine.checks, "available_memory_bytes", lambda: budget)
    assert plan_context(header, replace(settings, n_ctx=wanted)).size == wanted
    with pytest.raises(NotEnough, match="needs"):
        plan_context(header, replace(settings, n_ctx=2 * wanted))


def test_layers_with_a_window_take_no_more_when_it_is_full(tmp_path, capsys):
    shape = SMALL["gemma3"]
    header = read_header(write_shaped_model(tmp_path / "some-Q8_0.gguf", shape))
    assert run(["show", str(header.path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    one_layer = 4 * shape.kv_heads * shape.head
    assert shown["cache_bytes_per_token"] == one_layer, "five of six layers have a window"
    cells = 5 * (shape.window + 512) + header.context_trained
    assert shown["cache_bytes_at_trained_context"] == one_layer * cells
