"""The process that holds one model: `python -m localknobs.engine.worker`; started by `client.py`.

Standard input brings commands, one JSON object a line; standard output takes the answers. Everything
that llama.cpp or a library prints goes to standard error, which the parent collects.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter, sleep
from typing import Any

from localknobs.engine import protocol
from localknobs.engine.adapter_files import check_adapters, read_adapters
from localknobs.engine.controls import Controls, Plan
from localknobs.engine.events import Event, ModelInfo, TokensScored
from localknobs.engine.settings import LoadSettings
from localknobs.engine.templates import ChatTemplate, Prompt, TemplateRenderer
from localknobs.engine.threads import ThreadTuner, candidates
from localknobs.errors import BadValue, LocalknobsError
from localknobs.gguf_info import check_is_model, read_header
from localknobs.hardware import logical_cores, physical_cores
from localknobs.knobs import check_values, defaults
from localknobs.knobs.adapters import ADAPTERS
from localknobs.knobs.overflow import PARKING, WHEN_FULL
from localknobs.units import count_text

LAST_S = 1.5
"""Time an answer has to come to its end when the parent closes the pipe; the parent waits a little longer."""


class Worker:
    """Holds the model and answers one command after another."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._renderer = TemplateRenderer()
        self._looks: deque[Mapping[str, Any]] = deque()
        self._generator: Any = None
        self._template: ChatTemplate | None = None
        self._settings: Any = None

    def run(self) -> None:
        """Serve until the parent closes the pipe."""
        threading.Thread(target=self._listen, daemon=True).start()
        while (command := self._commands.get()) is not None:
            try:
                self._do(command)
            except LocalknobsError as error:
                self._write(protocol.error_line(error))
            except MemoryError:
                self._write(
                    protocol.error_line(
                        LocalknobsError("There is not enough memory", "Use a smaller model or a smaller context (-c).")
                    )
                )
        self._renderer.close()

    def _listen(self) -> None:
        """Take commands; what concerns the answer being written, or the last one waiting, takes effect at once."""
        controls = Controls(looks=self._looks)
        try:
            for line in sys.stdin.buffer:
                command = json.loads(line)
                if command["do"] == "stop":
                    controls.stop.set()
                elif command["do"] == "change":
                    controls.changes.append(protocol.values_of(command["values"]))
                else:
                    if command["do"] == "answer":
                        # Made here, not where the answer begins: a stop that follows at once must not be lost.
                        plan = Plan(**{**command["plan"], "beginning": tuple(command["plan"]["beginning"])})
                        controls = command["controls"] = Controls(looks=self._looks, plan=plan)
                    elif command["do"] == "look":
                        command["values"] = protocol.values_of(command["values"])
                        # The answer being written takes it before its next token; else it has its turn.
                        self._looks.append(command)
                    self._commands.put(command)
        finally:
            controls.stop.set()
            self._commands.put(None)
            # The parent closed the model or died. What cannot be interrupted (a load, a long batch on a GPU)
            # gets no more time than this; nothing here needs saving.
            sleep(LAST_S)
            os._exit(0)

    def _do(self, command: dict[str, Any]) -> None:
        if command["do"] == "load":
            self._load(command)
        elif command["do"] == "answer":
            began = perf_counter()
            values = {**defaults("sampling"), **check_values(protocol.values_of(command["values"]))}
            self._generator.answer(self._prompt(command), values, command["controls"], began)
        elif command["do"] == "look":
            self._look(command)
        elif command["do"] == "tokens":
            self._write(protocol.to_line({"tokens": self._generator.lookback.written}))
        elif command["do"] == "scores":
            scored = self._generator.lookback.score_all()
            self._write(protocol.event_line(scored or TokensScored(0, ())))
        elif command["do"] == "count":
            self._write(protocol.to_line({"count": len(self._prompt(command).tokens)}))
        elif command["do"] == "tokenize":
            self._write(protocol.to_line({"tokens": self._tokenize(command)}))
        elif command["do"] == "embed":
            tokens = self._embedded_tokens(command)
            data = self._generator.embed(tokens).tobytes()
            self._write(protocol.to_line({"vector": data.hex(), "tokens": len(tokens)}))
        elif command["do"] == "spell":
            spellings = [self._generator.model.spelling(token).hex() for token in self._known(command["tokens"])]
            self._write(protocol.to_line({"spellings": spellings}))
        elif command["do"] == "grammar":
            from localknobs.engine.json_grammar import grammar_of

            self._write(protocol.to_line({"grammar": grammar_of(command["schema"])}))
        elif command["do"] == "time":
            self._write(protocol.to_line({"seconds": self._generator.time_tokens(**command["tokens"])}))
        elif command["do"] in ("save_cache", "restore_cache"):
            parked = self._generator.parked
            if command["do"] == "restore_cache":
                self._generator.put_adapters_on()
            done = (parked.save if command["do"] == "save_cache" else parked.restore)(command["name"])
            self._write(protocol.to_line({"tokens": done.tokens, "size_bytes": done.size_bytes, "note": done.note}))
        elif command["do"] == "settings":
            self._use_settings(protocol.values_of(command["values"]))

    def _use_settings(self, values: dict[str, Any]) -> None:
        """Take loading knobs that need no new load, from the next answer on."""
        settings = replace(self._settings, **values)
        # First, as it alone can fail for what lies in files; nothing is changed then.
        chosen = self._generator.adapters.choose(settings) if any(row.name in values for row in ADAPTERS) else ()
        if settings.threads != self._settings.threads:
            self._generator.set_threads(*self._threads(settings.threads))
        if any(name.startswith("draft") for name in values):
            self._generator.drafting.use(settings)
        if any(row.name in values for row in PARKING):
            self._generator.parked.use(settings)
        if any(row.name in values for row in WHEN_FULL):
            self._generator.overflow.use(settings)
        self._settings = settings
        note = self._generator.drafting.note
        self._write(protocol.to_line({"notes": [*chosen, *([note] if note else [])]}))

    def _look(self, command: dict[str, Any]) -> None:
        """Answer a look, unless the answer that was being written has done it already."""
        if command in self._looks and command["at"] is None:
            self._generator.compute_next()
        self._generator.show_looks(self._looks)

    def _prompt(self, command: dict[str, Any]) -> Prompt:
        assert self._template is not None
        if "prompt" in command:
            return self._template.plain(command["prompt"])
        return self._template.prompt(command["messages"], continue_last=command.get("continue_last", False))

    def _tokenize(self, command: dict[str, Any]) -> list[int]:
        model = self._generator.model
        tokens: list[int] = model.tokenize(command["text"], special=command["special"])
        begins = command["begin"] and model.begin_token >= 0
        return [model.begin_token, *tokens] if begins else tokens

    def _embedded_tokens(self, command: dict[str, Any]) -> list[int]:
        """Return what is read for a text's vector: its tokens between those that the model wants around a text."""
        if "tokens" in command:
            return self._known(command["tokens"])
        model = self._generator.model
        tokens = self._tokenize({"text": command["text"], "special": False, "begin": True})
        return [*tokens, model.end_token] if model.end_token >= 0 else tokens

    def _known(self, tokens: list[int]) -> list[int]:
        """Return the tokens; one that does not exist would end the process in C."""
        size = self._generator.model.vocabulary_size
        if wrong := [token for token in tokens if not 0 <= token < size]:
            raise BadValue(f"This model has no token {wrong[0]}", f"Its tokens are 0 to {size - 1}.")
        return tokens

    def _load(self, command: dict[str, Any]) -> None:
        from localknobs.engine.checks import plan_context
        from localknobs.engine.refusals import check_settings

        fields = command["settings"]
        settings = LoadSettings.from_plain(fields)
        header = read_header(settings.model)
        check_is_model(header)
        check_settings(header, settings)
        beside = read_adapters(settings)
        adapter_notes = check_adapters(beside, header, settings)  # before the weights are read
        plan = plan_context(header, settings)
        if header.chat_template:
            self._renderer.start()  # starts up while the model loads

        from localknobs.engine import drafting, embedding, generate, llama

        llama.send_log_to_stderr()
        tuners, threads = self._threads(settings.threads)
        model = llama.LoadedModel(settings, plan.size, threads, bool(command["use_extra_bufts"]), self._progress)
        self._probe(model)
        devices = model.devices
        draft = None
        if settings.model_draft:
            draft = drafting.load_draft(
                model, settings, threads, use_extra_bufts=bool(command["use_extra_bufts"]), probe=self._probe
            )
        self._generator = generate.Generator(model, draft, header, settings, tuners, threads, self._send)
        self._generator.adapters.take(beside, settings)
        self._settings = settings
        draft_note = self._generator.drafting.note
        self._template = model.template_with(self._renderer)
        info = ModelInfo(
            path=str(settings.model),
            name=header.name,
            architecture=header.architecture,
            description=f"{header.architecture} {count_text(model.parameters)} {header.quant}",
            parameters=model.parameters,
            size_bytes=model.size_bytes,
            context_size=model.context_size,
            context_trained=header.context_trained,
            vocabulary_size=model.vocabulary_size,
            chat_template=model.chat_template(),
            recommended=header.sampling,
            system_info=llama.lib.llama_print_system_info().decode("utf-8", "replace").strip(),
            devices=devices,
            pooling=embedding.named_pooling(header),
            notes=(*plan.notes, *adapter_notes, *([draft_note] if draft_note else [])),
        )
        self._write(protocol.to_line({"loaded": {name: getattr(info, name) for name in ModelInfo.__slots__}}))

    def _probe(self, model: Any) -> None:
        """Compute two tokens: where the extra CPU buffers crash (ggml-cpu/amx), here; the parent then loads without."""
        self._write(protocol.to_line({"probing": True}))
        from localknobs.engine import llama

        token = max(0, model.begin_token)
        code = model.decode([token, token])
        best = llama.lib.llama_get_logits_ith(model.context, -1)
        if code or not math.isfinite(best[0]):
            os.abort()  # as bad as a crash: the numbers are no numbers
        model.clear()

    @staticmethod
    def _threads(wanted: int) -> tuple[tuple[ThreadTuner, ThreadTuner] | None, int]:
        """Return the tuners of automatic threads with where they begin, or None and the fixed count."""
        if wanted:
            return None, wanted
        # Writing waits for memory, which few cores use up; from 8 the tuners find their way up faster than down.
        first, counts = min(physical_cores(), 8), candidates(logical_cores())
        return (ThreadTuner(counts, first), ThreadTuner(counts, first)), first

    def _progress(self, done: float) -> None:
        self._write(protocol.to_line({"progress": round(done, 3)}))

    def _send(self, event: Event) -> None:
        self._write(protocol.event_line(event))

    def _write(self, line: bytes) -> None:
        with self._lock:
            view = memoryview(line)
            while view:
                view = view[os.write(self._out, view) :]


def main() -> None:
    """Serve the parent; whatever prints to standard output lands in the log instead."""
    out = os.dup(1)  # not inheritable: no child holds the pipe open
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business
    code = 0
    try:
        Worker(out).run()
    except BrokenPipeError:
        pass  # the parent is gone
    except BaseException:
        traceback.print_exc()  # into the log; the parent shows its last lines
        code = 1
    # Without C++ destructors, which can hang on a busy device, and without joining the listening thread.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
