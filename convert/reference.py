"""What transformers makes of a checkpoint: tokens, rendered conversations, logits; a process of its own.

`python -m localknobs.convert.reference`: standard input brings one order, a JSON object, standard output takes what
was found; logits go to files. The whole model is in this process's memory, in float32, and is gone with it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.token_proof import own_encoder
from localknobs.engine import protocol
from localknobs.errors import BadFile
from localknobs.jobs import DISK_FULL

MOST_SPECIAL = 8
"""How many control tokens are compared within a text."""


def _tokens(tokenizer: Any, text: str, *, wrapped: bool = False) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=wrapped)["input_ids"]]


def _render(tokenizer: Any, messages: list[dict[str, str]], *, answer: bool = True) -> dict[str, Any]:
    """Return the text of a conversation with its tokens, or why there is none."""
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
    except Exception as error:  # whatever a stranger's template raises is an answer
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"text": text, "tokens": _tokens(tokenizer, text)}


def _described(tokenizer: Any, config: Any, generation: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Return all that the tokenizer and the settings say."""
    template = bool(getattr(tokenizer, "chat_template", None))
    ends: set[int] = set()
    for value in (tokenizer.eos_token_id, config.eos_token_id, getattr(generation, "eos_token_id", None)):
        ends.update(value if isinstance(value, list) else [value] if value is not None else [])
    special = [text for text in tokenizer.all_special_tokens if len(_tokens(tokenizer, f"x{text}y")) == 3]
    special_text = "x" + "y".join(special[:MOST_SPECIAL]) + "z" if special else ""
    inputs = []
    for at, prompt in enumerate(order["prompts"]):
        tokens = _tokens(tokenizer, prompt, wrapped=True)
        if template and at % 2:
            tokens = _render(tokenizer, [{"role": "user", "content": prompt}]).get("tokens", tokens)
        inputs.append(tokens[: order["most_tokens"]])
    file = Path(order["source"]) / "tokenizer.json"
    encode = own_encoder(file)[0] if file.is_file() else None
    return {
        "tokens": [_tokens(tokenizer, text) for text in order["texts"]],
        # transformers has classes that cut by rules of their own, whatever the file of the checkpoint says.
        "own_tokens": [encode(text) for text in order["texts"]] if encode else [],
        "tokenizer_class": type(tokenizer).__name__,
        "special_text": special_text,
        "special_tokens": _tokens(tokenizer, special_text) if special_text else [],
        "has_template": template,
        "rendered": [_render(tokenizer, talk) for talk in order["conversations"]] if template else [],
        "wrapped": _tokens(tokenizer, order["prompts"][0], wrapped=True),
        "begin": tokenizer.bos_token_id,
        "ends": {str(token): str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(ends)},
        "inputs": inputs,
    }


def _run(order: dict[str, Any], say: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(order["threads"])
    source, own = order["source"], {"trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **own)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", **own
        )
    except Exception as error:  # the library raises all kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise BadFile(
            f"transformers cannot load {source}: {reason}", "Without it there is nothing to compare with."
        ) from None
    model.eval()
    found = _described(tokenizer, model.config, model.generation_config, order)
    say(found)
    with torch.inference_mode():
        for at, tokens in enumerate(found["inputs"]):
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
            np.save(Path(order["folder"]) / f"reference-{at}.npy", logits)
            say({"done": at})


def main() -> None:
    """Serve the parent; whatever prints to standard output lands in the log instead."""
    serve(_run)


def serve(run: Any) -> None:
    """Read one order, run it, and write what it says, or its error, to the parent."""
    from localknobs.errors import LocalknobsError, NotEnough

    out = os.dup(1)
    os.dup2(2, 1)
    # Nothing is looked up on the hub, and no folder that the user stands in lends its modules.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

    def write(line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(out, view) :]

    code = 0
    try:
        run(json.loads(sys.stdin.buffer.readline() or b"{}"), lambda message: write(protocol.to_line(message)))
    except LocalknobsError as error:
        write(protocol.error_line(error))
    except BrokenPipeError:
        pass  # the parent is gone
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        write(protocol.error_line(NotEnough("The disk is full: logits could not be written", "Set TMPDIR to another.")))
    except BaseException:
        traceback.print_exc()  # into the log; the parent shows its last lines
        code = 1
    sys.stderr.flush()
    os._exit(code)  # without C++ destructors, which can hang on a busy device


if __name__ == "__main__":
    main()
