"""The model that is trained, in the training process: a frozen base with an adapter beside it, or all its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localknobs.convert.checkpoint import read_json
from localknobs.convert.checkpoint_writer import copy_beside
from localknobs.convert.child import reason_of
from localknobs.errors import BadFile, LocalknobsError


def _device_and_type() -> tuple[str, Any]:
    """Return where to compute and in which type: float32 on a processor, 16 bits on a graphics card."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if torch.backends.mps.is_available():
        return "mps", torch.float32
    return "cpu", torch.float32


def load_trainee(order: Mapping[str, Any]) -> tuple[Any, str]:
    """Return what is trained, and the device it is on: the base with a fresh adapter in float32, or the whole model.

    Args:
        order: `base`, `base_name`, `gguf`, `method`, `nf4`, `rank`, `alpha`, `dropout`, `rslora`, `dora`, `modules`,
            `checkpointing`, `seed`, `threads`; `layers` to try with so many of them, and any weights.

    Raises:
        BadFile: transformers or peft cannot load it; with the reason.
        Unsupported: a GGUF file has weights that cannot be read here.
    """
    import torch

    torch.set_num_threads(order["threads"])
    torch.manual_seed(order["seed"])
    device, dtype = _device_and_type()
    try:
        trainee = _whole_model(order, device) if order["method"] == "full" else _with_adapter(order, device, dtype)
    except LocalknobsError:
        raise
    except Exception as error:  # the libraries raise all kinds
        hint = "`localknobs convert --check` says more."
        raise BadFile(f"transformers cannot load {order['base']}: {reason_of(error)}", hint) from None
    trainee.config.use_cache = False
    if order["checkpointing"]:
        trainee.enable_input_require_grads()
        trainee.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trainee.train()  # it comes from its file without dropout
    return trainee, device


def _with_adapter(order: Mapping[str, Any], device: str, dtype: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(
        r=order["rank"], lora_alpha=order["alpha"], lora_dropout=order["dropout"], use_rslora=order["rslora"],
        use_dora=order["dora"], target_modules=list(order["modules"]), bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    layers = order.get("layers", 0)
    if order["gguf"] and not (layers and not Path(order["gguf"]).is_file()):  # to be timed before it is made
        from localknobs.convert.torch_gguf import load_gguf_model

        base = load_gguf_model(Path(order["base"]), Path(order["gguf"]), dtype=dtype, device=device, layers=layers)
        base.name_or_path = base.config._name_or_path = order["base_name"]
    elif layers:
        base = _with_any_weights(order["base"], dtype, layers)
    elif order["nf4"]:
        base = _in_nf4(order["base"], dtype)
    else:
        base = _from_checkpoint(order["base"], dtype)
    trainee: Any = get_peft_model(base, adapter)
    return trainee if order["nf4"] and not layers else trainee.to(device)


def _in_nf4(folder: str, dtype: Any) -> Any:
    """Return a checkpoint whose matrices bitsandbytes keeps in 4 bits, on the card."""
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    kept: Any = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    base = _from_checkpoint(folder, dtype, quantization_config=kept, device_map={"": torch.cuda.current_device()})
    prepare: Any = prepare_model_for_kbit_training
    return prepare(base, use_gradient_checkpointing=False)


def _whole_model(order: Mapping[str, Any], device: str) -> Any:
    """Return the model in float32, all of it to be trained: small steps would be lost in 16 bits."""
    import torch

    if layers := order.get("layers", 0):
        trainee = _with_any_weights(order["base"], torch.float32, layers).to(device)
    else:
        trainee = _from_checkpoint(order["base"], torch.float32).to(device)
    if device == "cuda" and torch.cuda.is_bf16_supported():
        trainee.forward = torch.autocast("cuda", dtype=torch.bfloat16)(trainee.forward)
    return trainee


def _from_checkpoint(folder: str, dtype: Any, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, local_files_only=True, **more
    )
    return model


def _with_any_weights(folder: str, dtype: Any, layers: int) -> Any:
    """Return the model of a checkpoint's config, cut down to some layers, with weights of chance."""
    from transformers import AutoModelForCausalLM

    from localknobs.convert.torch_gguf import config_of

    make: Any = AutoModelForCausalLM.from_config
    return make(config_of(Path(folder), layers), trust_remote_code=False, dtype=dtype)


def save_trained(trainee: Any, order: Mapping[str, Any]) -> None:
    """Write what was trained into the folder of the order: an adapter as peft has it, or a whole checkpoint.

    A checkpoint keeps the type its base has, and gets the base's tokenizer.
    """
    if order["method"] != "full":
        trainee.save_pretrained(order["output"])
        return
    import torch

    base, output = Path(order["base"]), Path(order["output"])
    kept = read_json(base / "config.json")
    kind = getattr(torch, str(kept.get("dtype", kept.get("torch_dtype", "float32"))), torch.float32)
    if "forward" in vars(trainee):
        del trainee.forward
    trainee.to(kind)
    trainee.config.use_cache = True
    trainee.save_pretrained(output)
    copy_beside(base, output)


def seed_again(seed: int) -> None:
    """Let chance begin anew, for dropout."""
    import torch

    torch.manual_seed(seed)


def trained_state(trainee: Any) -> dict[str, Any]:
    """Return a copy of the values that are trained."""
    return {name: value.to("cpu", copy=True) for name, value in trained_values(trainee).items()}


def trained_values(trainee: Any) -> dict[str, Any]:
    """Return the values that are trained, as they are now, by name."""
    return {name: value.detach() for name, value in trainee.named_parameters() if value.requires_grad}


def set_trained_state(trainee: Any, state: Mapping[str, Any]) -> None:
    """Put trained values back."""
    own = dict(trainee.named_parameters())
    for name, value in state.items():
        own[name].data.copy_(value)


def answer(trainee: Any, prompt: list[int], most_tokens: int, end: int | None) -> list[int]:
    """Return what the model answers when it always takes the likeliest token."""
    import torch

    device = next(trainee.parameters()).device
    tokens = torch.tensor([prompt], device=device)
    trainee.eval()
    with torch.inference_mode():
        found = trainee.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=most_tokens, do_sample=False,
            use_cache=True, pad_token_id=end if end is not None else 0,
        )  # fmt: skip
    trainee.train()
    written: list[int] = found[0, len(prompt) :].tolist()
    return written
