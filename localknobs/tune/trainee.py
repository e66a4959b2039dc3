"""The model that is trained, in the training process: the frozen base with an adapter beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localknobs.errors import BadFile


def _device_and_type() -> tuple[str, Any]:
    """Return where to compute and in which type: float32 on a processor, 16 bits on a graphics card."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if torch.backends.mps.is_available():
        return "mps", torch.float32
    return "cpu", torch.float32


def load_trainee(order: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the base with a fresh adapter, and the device it is on; the adapter is float32.

    Args:
        order: `base`, `rank`, `alpha`, `dropout`, `rslora`, `dora`, `modules`, `checkpointing`,
            `seed`, `threads`.

    Raises:
        BadFile: transformers or peft cannot load it; with the reason.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(order["threads"])
    torch.manual_seed(order["seed"])
    device, dtype = _device_and_type()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            order["base"], dtype=dtype, trust_remote_code=False, local_files_only=True
        )
        adapter = LoraConfig(
            r=order["rank"], lora_alpha=order["alpha"], lora_dropout=order["dropout"], use_rslora=order["rslora"],
            use_dora=order["dora"], target_modules=list(order["modules"]), bias="none", task_type="CAUSAL_LM",
        )  # fmt: skip
        trainee: Any = get_peft_model(model, adapter)
    except Exception as error:  # the libraries raise all kinds
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        hint = "`localknobs convert --check` says more."
        raise BadFile(f"transformers cannot load {order['base']}: {reason}", hint) from None
    trainee.config.use_cache = False
    if order["checkpointing"]:
        trainee.enable_input_require_grads()
        trainee.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trainee.train()  # it comes from its file without dropout
    return trainee.to(device), device


def adapter_state(trainee: Any) -> dict[str, Any]:
    """Return a copy of the values that are trained."""
    return {
        name: value.detach().to("cpu", copy=True) for name, value in trainee.named_parameters() if value.requires_grad
    }


def set_adapter_state(trainee: Any, state: Mapping[str, Any]) -> None:
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
