"""The process that reads the prompts: `python -m localknobs.steer.worker`.

Standard input brings one order; standard output takes one line a pair of prompts, and what was found. The directions
go to a file of the parent's choice, which gives it its final name. The parent stops it by killing it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.child import Say, serve
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue, LocalknobsError


def _run(order: dict[str, Any], say: Say) -> None:
    from localknobs.engine.hidden_states import HiddenStates
    from localknobs.engine.llama import LoadedModel, send_log_to_stderr
    from localknobs.gguf_info import read_header
    from localknobs.steer.directions import direction_of, vector_of
    from localknobs.steer.vector_file import write_vector

    send_log_to_stderr()
    path = Path(order["model"])
    header = read_header(path)
    layers, width = header.number("block_count"), header.number("embedding_length")
    size = int(order["context"])
    settings = LoadSettings(model=path, n_ctx=size, n_gpu_layers=order["n_gpu_layers"], n_batch=size, n_ubatch=size)
    look = HiddenStates(layers, width)
    # Without extra buffers: AMX faults on some virtual machines.
    model = LoadedModel(settings, size, order["threads"], False, lambda done: None, look.callback)
    texts = _tokens(model, order, say)
    say({"tokens": sum(len(tokens) for _, tokens in texts)})
    differences, lengths = [], np.zeros(layers)
    before = np.zeros((layers, width), np.float32)
    for sign, tokens in texts:
        model.clear()
        if code := model.decode(tokens):
            raise LocalknobsError(f"llama.cpp could not compute a prompt (code {code})", "The log tells more.")
        states = look.take()
        lengths += np.linalg.norm(states, axis=1)
        if sign > 0:
            before = states
        else:
            differences.append(before - states)
        say({"read": len(tokens)})
    model.close()
    by_pair = np.stack(differences)  # (pairs, layers, width)
    lengths /= len(texts)
    found, vectors = [], {}
    for layer in range(1, layers):
        one = direction_of(layer, by_pair[:, layer], float(lengths[layer]), order["method"])
        vectors[layer] = vector_of(one, order["normalize"], layers - 1)
        found.append({"layer": layer, "apart": one.apart, "agree": one.agree, "explained": one.explained,
                      "state": one.state, "length": float(np.linalg.norm(vectors[layer]))})  # fmt: skip
    write_vector(Path(order["output"]), vectors, header, order["extra"])
    say({"layers": found})


def _tokens(model: Any, order: dict[str, Any], say: Say) -> list[tuple[int, list[int]]]:
    """Return the tokens of all prompts, pair by pair, with 1 for the positive list and -1 for the negative one."""
    from localknobs.engine.templates import TemplateRenderer

    renderer = TemplateRenderer()
    try:
        template = model.template_with(renderer)
        found = []
        noted = ""
        for number, pair in enumerate(zip(order["positive"], order["negative"], strict=True), 1):
            for sign, text in zip((1, -1), pair, strict=True):
                prompt = template.prompt([{"role": "user", "content": text}]) if order["chat"] else template.plain(text)
                if prompt.note and prompt.note != noted:
                    say({"note": prompt.note})
                    noted = prompt.note
                found.append((sign, _checked(prompt.tokens, min(model.context_size, model.batch_size), sign, number)))
        return found
    finally:
        renderer.close()


def _checked(tokens: list[int], most: int, sign: int, number: int) -> list[int]:
    which = f"Prompt {number} of the {'positive' if sign > 0 else 'negative'} list"
    if not tokens:
        raise BadValue(f"{which} has no tokens", "Write something there.")
    if len(tokens) > most:
        raise BadValue(
            f"{which} has {len(tokens):,} tokens, and {most:,} are read at once",
            f"Give it more: -c {-(-len(tokens) // 256) * 256}",
        )
    return tokens


if __name__ == "__main__":
    serve(_run)
