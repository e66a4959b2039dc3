"""The rows that say where the model lies: layers, tensors and experts on the graphics cards or in main memory."""

from __future__ import annotations

from localknobs.knobs.record import SWITCH, Knob

PLACEMENT: tuple[Knob, ...] = (
    Knob(
        name="n_gpu_layers", lever="decode", group="Placement", kind="int", default=-1, low=0, high=10_000, live_high=128,
        special=((-1, "all that fit"),), label="GPU layers", flags=("-ngl", "--n-gpu-layers", "--gpu-layers"),
        applies="reload", help="How many layers are computed on the GPU.",
        cost="Each layer takes its weights and its part of the cache from GPU memory.",
        fails="Too many: the load fails for lack of GPU memory.",
        source="llama.cpp common/arg.cpp --n-gpu-layers",
    ),
    Knob(
        name="cpu_moe", lever="decode", group="Placement", kind="choice", choices=SWITCH, default="off", off="off",
        label="all CPU experts", flags=("-cmoe", "--cpu-moe"), applies="reload",
        help="Keep the experts of all layers in main memory, and the rest of each layer on the GPU.",
        cost="A large mixture of experts runs on a small card; its experts are read at the speed of main memory.",
        source="llama.cpp common/arg.cpp --cpu-moe",
    ),
    Knob(
        name="n_cpu_moe", lever="decode", group="Placement", kind="int", default=0, low=0, high=10_000, live_high=128, off=0,
        label="CPU experts", flags=("-ncmoe", "--n-cpu-moe"), applies="reload",
        help="Keep the experts of the first so many layers in main memory.",
        cost="Each layer frees its experts' weights on the card and slows every token that uses them.",
        source="llama.cpp common/arg.cpp --n-cpu-moe",
    ),
    Knob(
        name="override_tensor", lever="decode", group="Placement", kind="text", default="", off="", label="tensors on",
        flags=("-ot", "--override-tensor"), applies="reload",
        help="Where single tensors lie: PATTERN=BUFFER pairs separated by commas, such as ffn_.*_exps=CPU.",
        cost="Whatever lies in main memory is computed there.",
        fails="A pattern that matches nothing changes nothing; the first that matches a tensor counts.",
        source="llama.cpp common/arg.cpp --override-tensor",
    ),
    Knob(
        name="split_mode", lever="decode", group="Placement", kind="choice", choices=("layer", "none", "row", "tensor"),
        default="layer", label="GPU split mode", flags=("-sm", "--split-mode"), applies="reload",
        help="How several GPUs share a model: whole layers, none (one GPU alone), rows, or tensors (experimental).",
        cost="Layers wait for each other; rows and tensors talk over the bus at every layer.",
        fails="`tensor` needs flash attention.",
        source="llama.cpp common/arg.cpp --split-mode",
    ),
    Knob(
        name="tensor_split", lever="decode", group="Placement", kind="text", default="", off="", label="GPU shares",
        flags=("-ts", "--tensor-split"), applies="reload",
        help="How much of the model each GPU takes, as proportions: 3,1 gives the first three quarters.",
        cost="Too large a share and that GPU's memory ends before the others'.",
        source="llama.cpp common/arg.cpp --tensor-split",
    ),
    Knob(
        name="main_gpu", lever="decode", group="Placement", kind="int", default=0, low=0, high=63, label="main GPU",
        flags=("-mg", "--main-gpu"), applies="reload",
        help="The GPU that takes the whole model with split mode none, or the small tensors with rows.",
        cost="None by itself.", fails="A number that no GPU has: the load fails.",
        source="llama.cpp common/arg.cpp --main-gpu",
    ),
)
