"""The rows of adapters: LoRA adapters and control vectors on a loaded model, each with its scale."""

from __future__ import annotations

from localknobs.knobs.record import SWITCH, Knob

ADAPTERS: tuple[Knob, ...] = (
    Knob(
        name="lora", lever="finetune", group="Live adapters", kind="texts", default=(), off=(), label="LoRA adapters",
        flags=("--lora", "--lora-scaled"), applies="next answer",
        help="Adapters on the model, each FILE or FILE:SCALE: a GGUF adapter, a folder of peft, or a name from `localknobs ls`; several are added up. 1 is as it was trained, 0 is the base to the bit, below 0 is away from what was trained.",
        cost="Two thin products for every adapted weight: a few percent of speed. After a change the conversation is read again, unless the same setting was in use before.",
        fails="Far beyond 1 answers fall apart; two adapters that change the same weights can spoil each other.",
        source="Hu 2021, arXiv:2106.09685; llama.cpp common/arg.cpp --lora",
    ),
    Knob(
        name="lora_any_base", lever="finetune", group="Live adapters", kind="choice", default="off", off="off",
        choices=SWITCH, label="any base", flags=("--lora-any-base",), applies="next answer",
        help="Take adapters that say they were trained on another model of the same shapes, such as the chat version of their base.",
        cost="None in time.", fails="On a model that has little to do with the adapter's base, answers are noise.",
        source="gguf_info/base_mark.py",
    ),
    Knob(
        name="control_vector", lever="finetune", group="Live adapters", kind="texts", default=(), off=(),
        label="control vectors", flags=("--control-vector", "--control-vector-scaled"), applies="next answer",
        help="Directions that are added to what passes between the layers, each FILE or FILE:SCALE: a GGUF control vector. Below 0 it pushes the other way. `localknobs control-vector` makes one of two lists of prompts.",
        cost="None in speed; one vector a layer in memory. After a change the conversation is read again.",
        fails="Too strong, the model repeats itself or writes noise.",
        source="docs/control-vectors.md; Zou 2023, arXiv:2310.01405; llama.cpp common/arg.cpp --control-vector",
    ),
    Knob(
        name="control_vector_layers", lever="finetune", group="Live adapters", kind="text", default="", off="",
        label="control layers", flags=("--control-vector-layer-range",), words=("START", "END"),
        applies="next answer", help="First and last layer that control vectors act on, from 1; all when not given.",
        cost="None.", fails="The first and the last layers steer worst: words change, and the meaning does not.",
        source="llama.cpp common/arg.cpp --control-vector-layer-range",
    ),
)
