"""What transformers makes of a checkpoint: tokens, rendered conversations, logits; a process of its own.

`python -m localknobs.convert.reference`: standard input brings one order, a JSON object, standard output takes what
was found; logits go to files. The whole model is in this process's memory, in float32, and is gone with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.child import Say, reason_of, serve
from localknobs.convert.own_tokenizer import own_encoder
from localknobs.errors import BadFile

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


def _adapted(model: Any, loras: Sequence[tuple[str, float]], rows: int) -> Any:
    """Return a model with adapters as peft applies them; one stays beside the weights, as it was trained.

    Args:
        model: The base.
        loras: Folders and factors.
        rows: Of the embedding, where an adapter brings more tokens; 0 where the base's stay.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.utils.other import ModulesToSaveWrapper

    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    names = [f"adapter{at}" for at in range(len(loras))]
    for name, (folder, scale) in zip(names, loras, strict=True):
        if name == names[0]:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        else:
            model.load_adapter(folder, adapter_name=name)
        for module in model.modules():
            # What is trained whole has no factor in peft: it is put so far between the base and what was trained.
            if isinstance(module, LoraLayer):
                module.set_scale(name, scale)
            elif isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save:
                whole = module.modules_to_save[name].parameters()
                for trained, base in zip(whole, module.original_module.parameters(), strict=True):
                    trained.data = base.data.lerp(trained.data, scale)
            elif isinstance(module, TrainableTokensLayer) and name in module.trainable_tokens_delta:
                rows_trained = module.trainable_tokens_delta[name]
                rows_trained.data = module.trainable_tokens_original[name].data.lerp(rows_trained.data, scale)
    if len(names) == 1:
        return model
    model.base_model.set_adapter(names)
    return model.merge_and_unload()


def _over_file(folder: str, file: str) -> Any:
    from localknobs.convert.torch_gguf import load_gguf_model

    return load_gguf_model(Path(folder), Path(file))


def _run(order: dict[str, Any], say: Say) -> None:
    # Nothing is looked up on the hub, and no folder that the user stands in lends its modules.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(order["threads"])
    source, own = order["source"], {"trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **own)
        model = _over_file(source, order["weights"]) if order["weights"] else AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", **own
        )  # fmt: skip
    except Exception as error:  # the library raises all kinds
        raise BadFile(
            f"transformers cannot load {source}: {reason_of(error)}", "Without it there is nothing to compare with."
        ) from None
    if loras := order["loras"]:
        try:
            model = _adapted(model, loras, order["rows"])
        except Exception as error:  # as above
            folders = ", ".join(folder for folder, _ in loras)
            raise BadFile(f"peft cannot load {folders}: {reason_of(error)}", "Compare with the merged model.") from None
    model.eval()
    found = _described(tokenizer, model.config, model.generation_config, order)
    say(found)
    with torch.inference_mode():
        for at, tokens in enumerate(found["inputs"]):
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
            np.save(Path(order["folder"]) / f"reference-{at}.npy", logits)
            say({"done": at})


if __name__ == "__main__":
    serve(_run)
