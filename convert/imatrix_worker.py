"""The process that reads a text and sums activations: `python -m localknobs.convert.imatrix_worker`.

Standard input brings one command, a JSON object, and then at most a stop; standard output takes what
happens. Sums go to a file of the parent's choice now and then, and at the end, so that a stopped or
killed run can be taken up again.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from localknobs.engine import protocol
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue, LocalknobsError

SAVE_S = 60.0
"""Time between two savings of what was summed."""


class _Worker:
    def __init__(self, out: int) -> None:
        self._out = out
        self._stop = threading.Event()

    def listen(self) -> None:
        """Wait for a stop; a parent that has died is one too."""
        sys.stdin.buffer.readline()
        self._stop.set()

    def run(self, command: dict[str, Any]) -> None:
        """Read the text, chunk by chunk."""
        from localknobs.convert.imatrix_collect import Collector
        from localknobs.convert.imatrix_file import Imatrix, read_imatrix, write_imatrix
        from localknobs.engine.llama import ABORTED, LoadedModel, lib, send_log_to_stderr

        send_log_to_stderr()
        size, state = int(command["chunk_tokens"]), Path(command["state"])
        settings = LoadSettings(
            model=Path(command["model"]), n_ctx=size, n_gpu_layers=command["n_gpu_layers"], n_batch=size, n_ubatch=size
        )
        collector = Collector(process_output=command["process_output"])
        look = lib.ggml_backend_sched_eval_callback(collector.on_tensor)
        abort = lib.ggml_abort_callback(lambda _user: self._stop.is_set())
        # Without extra buffers: repacked weights would do, but AMX faults on some virtual machines.
        model = LoadedModel(settings, size, command["threads"], False, lambda done: None, look)
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
        self.say({"chunks": chunks, "first": min(first, chunks)})

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
            if self._stop.is_set() or code == ABORTED:
                break
            if collector.failure:
                raise collector.failure
            if code:
                raise LocalknobsError(f"llama.cpp could not compute a chunk (code {code})", "The log tells more.")
            collector.keep()
            done = chunk + 1
            self.say({"done": done, "nll": _mean_nll(lib, model, part)})
            if monotonic() - saved_at > SAVE_S:
                save(done)
                saved_at = monotonic()
        if done > 0:
            save(done)
        self.say({"finished": not self._stop.is_set()})

    def say(self, message: dict[str, Any]) -> None:
        """Write one line to the parent."""
        self.write(protocol.to_line(message))

    def write(self, line: bytes) -> None:
        """Write a line, whole."""
        view = memoryview(line)
        while view:
            view = view[os.write(self._out, view) :]


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


def main() -> None:
    """Serve the parent; whatever prints to standard output lands in the log instead."""
    out = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business
    worker, code = _Worker(out), 0
    command = json.loads(sys.stdin.buffer.readline() or b"{}")
    threading.Thread(target=worker.listen, daemon=True).start()
    try:
        worker.run(command)
    except LocalknobsError as error:
        worker.write(protocol.error_line(error))
    except BrokenPipeError:
        pass  # the parent is gone; what was summed is saved
    except BaseException:
        traceback.print_exc()  # into the log; the parent shows its last lines
        code = 1
    sys.stderr.flush()
    os._exit(code)  # without C++ destructors, which can hang on a busy device


if __name__ == "__main__":
    main()
