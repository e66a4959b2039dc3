"""The process that reads a text and sums activations: `python -m localknobs.convert.imatrix_worker`.

Standard input brings one command, a JSON object, and then at most a stop; standard output takes what
happens. Sums go to a file of the parent's choice now and then, and at the end, so that a stopped or
killed run can be taken up again.
"""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from localknobs.convert.child import Say, serve
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue, LocalknobsError

SAVE_S = 60.0
"""Time between two savings of what was summed."""


def _listen(stop: threading.Event) -> None:
    """Wait for a stop; a parent that has died is one too."""
    sys.stdin.buffer.readline()
    stop.set()


def _run(command: dict[str, Any], say: Say) -> None:
    """Read the text, chunk by chunk."""
    from localknobs.convert.imatrix_collect import Collector
    from localknobs.convert.imatrix_file import Imatrix, read_imatrix, write_imatrix
    from localknobs.engine.llama import ABORTED, LoadedModel, lib, send_log_to_stderr

    send_log_to_stderr()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    size, state = int(command["chunk_tokens"]), Path(command["state"])
    settings = LoadSettings(
        model=Path(command["model"]), n_ctx=size, n_gpu_layers=command["n_gpu_layers"], n_batch=size, n_ubatch=size
    )
    collector = Collector(process_output=command["process_output"])
    abort = lib.ggml_abort_callback(lambda _user: stop.is_set())
    # Without extra buffers: repacked weights would do, but AMX faults on some virtual machines.
    model = LoadedModel(settings, size, command["threads"], False, lambda done: None, collector.callback)
    model.set_abort(abort)
    text = Path(command["text"]).read_bytes().decode("utf-8").removesuffix("\n")  # as llama.cpp reads -f
    tokens = model.tokenize(text, special=command["parse_special"])
    begin = model.begin_token
    tokens = [begin, *tokens] if begin >= 0 else tokens
    chunks = len(tokens) // size
    if not chunks:
        short = f"The text has {len(tokens):,} tokens, and a chunk takes {size:,}"
        raise BadValue(short, "Give more text, or smaller chunks: -c")
    chunks = min(chunks, command["chunks"] or chunks)
    first = 0
    if command["resume"]:
        before = read_imatrix(state)
        collector.entries, first = dict(before.entries), before.chunk_count
    say({"chunks": chunks, "first": min(first, chunks)})

    def save(done: int) -> None:
        extra = {"localknobs.resume": command["fingerprint"]}
        write_imatrix(Imatrix(collector.entries, (command["dataset"],), done, size, extra), state)

    saved_at, done = monotonic(), first
    for chunk in range(first, chunks):
        part = tokens[chunk * size : (chunk + 1) * size]
        if begin >= 0:
            part[0] = begin  # over the text's token, as llama-imatrix does
        model.clear()
        code = model.decode_all(part)
        if stop.is_set() or code == ABORTED:
            break
        if collector.failure:
            raise collector.failure
        if code:
            raise LocalknobsError(f"llama.cpp could not compute a chunk (code {code})", "The log tells more.")
        collector.keep()
        done = chunk + 1
        say({"done": done, "nll": _mean_nll(lib, model, part)})
        if monotonic() - saved_at > SAVE_S:
            save(done)
            saved_at = monotonic()
    if done > 0:
        save(done)
    say({"finished": not stop.is_set()})


def _mean_nll(lib: Any, model: Any, tokens: list[int]) -> float:
    """Return the mean surprise, in nats, at the second half of a chunk; the first half is context."""
    import ctypes

    first, width = len(tokens) // 2, model.vocabulary_size
    pointer = lib.llama_get_logits(model.context)
    values = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (len(tokens), width))
    total = 0.0
    for place in range(first, len(tokens) - 1):
        row = values[place]
        top = float(row.max())
        total += top + math.log(float(np.exp(row - top).sum(dtype=np.float64))) - float(row[tokens[place + 1]])
    return total / max(1, len(tokens) - 1 - first)


if __name__ == "__main__":
    serve(_run)
