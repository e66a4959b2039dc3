"""Run as a process of its own: streams tokens through one context and prints the perplexity of every window.

`python stream_text.py MODEL SETTINGS TOKENS_FILE`: settings and tokens are JSON. Every window is scored twice: as it
streams by, and by a fresh context that begins with it; of both only the second half counts, where both have read at
least half a window. The last line is a JSON object.
"""

from __future__ import annotations

import ctypes
import json
import math
import resource
import sys
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np

from localknobs.engine.cache import TokenCache
from localknobs.engine.llama import LoadedModel
from localknobs.engine.overflow import Overflow
from localknobs.engine.settings import LoadSettings
from localknobs.engine.templates import Prompt
from localknobs.gguf_info import read_header

PIECE = 16


@lib.llama_log_callback
def silent(level: int, text: bytes, data: object) -> None:
    pass


def losses(cache: TokenCache, overflow: Overflow | None, tokens: list[int], first: bool) -> list[float]:
    """Return the loss of every token but, of a fresh text, the first."""
    found: list[float] = []
    width = cache.model.vocabulary_size
    last: Any = None
    for begin in range(0, len(tokens), PIECE):
        piece = tokens[begin : begin + PIECE]
        while cache.room < len(piece):
            assert overflow is not None and overflow.make_room(0)
        assert cache.model.decode_all(piece) == 0
        cache.tokens += piece
        rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(cache.model.context, at), (width,)).astype(np.float64)
                for at in range(len(piece))]  # fmt: skip
        for row, token in zip([last, *rows[:-1]], piece, strict=True):
            if row is not None:
                found.append(float(np.logaddexp.reduce(row) - row[token]))
        last = rows[-1]
    return found if first else [math.nan, *found]


def main() -> None:
    """Stream and score."""
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    header = read_header(Path(sys.argv[1]))
    settings = LoadSettings(model=header.path, **json.loads(sys.argv[2]))
    tokens = json.loads(Path(sys.argv[3]).read_text())
    window = settings.n_ctx
    models = [LoadedModel(settings, window, 1, False, lambda done: None) for _ in range(2)]
    streaming, fresh = TokenCache(models[0]), TokenCache(models[1])
    events: list[Any] = []
    overflow = Overflow(streaming, header, settings, events.append)
    overflow.begin(Prompt([]), [], [])
    begin_token = models[0].begin_token
    streamed: list[float] = []
    scores = []
    memory = []
    ahead = [begin_token] if begin_token >= 0 else []
    for begin in range(0, len(tokens) - window + 1, window):
        part = tokens[begin : begin + window]
        part_losses = losses(streaming, overflow, [*ahead, *part], first=bool(ahead) or begin == 0)
        streamed = part_losses[-window:]
        ahead = []
        fresh.clear()
        own = losses(fresh, None, part, first=False)
        half = window // 2
        scores.append((float(np.mean(streamed[half:])), float(np.mean(own[half:]))))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(json.dumps({
        "streamed": [math.exp(score[0]) for score in scores], "fresh": [math.exp(score[1]) for score in scores],
        "drops": len(events), "ways": sorted({event.way for event in events}),
        "memory_growth_kib": memory[-1] - memory[len(memory) // 4],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
