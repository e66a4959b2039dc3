"""The rows of rotary positions: how the model is made to see further than it was trained to."""

from __future__ import annotations

from localknobs.knobs.record import Knob

_MODELS_OWN = ((0, "the model's own"),)
_YARN = "YaRN, arXiv:2309.00071; llama.cpp common/arg.cpp "

ROPE: tuple[Knob, ...] = (
    Knob(
        name="rope_scaling", lever="context", group="RoPE", kind="choice", choices=("model", "none", "linear", "yarn"),
        default="model", label="RoPE scaling", flags=("--rope-scaling",), applies="reload",
        help="How positions beyond the trained length are brought back into it; `model` is what the file says.",
        cost="No memory and no time. Linear and YaRN also change answers within the trained length.",
        fails="`none` ignores every factor. On a model that scales already, a second scaling compounds or replaces.",
        source="linear: arXiv:2306.15595; yarn: arXiv:2309.00071; llama.cpp common/arg.cpp --rope-scaling",
    ),
    Knob(
        name="rope_scale", lever="context", group="RoPE", kind="float", default=0.0, low=0.125, high=1024, live_low=1, live_high=32,
        step=0.5, scale="log", unit="x", special=_MODELS_OWN, label="RoPE factor", flags=("--rope-scale", "--factor"), applies="reload",
        help="How many times the trained length the model is to see.",
        cost="The larger, the more is lost within the trained length. Without training, 2 to 4 is what most models bear.",
        fails="Too large: the answers fall apart everywhere.",
        source="llama.cpp common/arg.cpp --rope-scale",
    ),
    Knob(
        name="rope_freq_base", lever="context", group="RoPE", kind="float", default=0.0, low=10, high=1e12, live_low=1000,
        live_high=2e7, step=1000, scale="log", special=_MODELS_OWN, label="RoPE base", flags=("--rope-freq-base",),
        applies="reload", help="The base of the rotations; a larger one slows the slow ones most (NTK-aware scaling).",
        cost="No memory and no time; short texts change less than with linear scaling.",
        fails="Too large: far positions cannot be told apart; near ones go wrong last.",
        source="NTK-aware: bloc97 2023; llama.cpp common/arg.cpp --rope-freq-base",
    ),
    Knob(
        name="rope_freq_scale", lever="context", group="RoPE", kind="float", default=0.0, low=0.0009, high=8, live_low=0.03,
        live_high=1, step=0.01, special=_MODELS_OWN, label="RoPE freq scale", flags=("--rope-freq-scale",), applies="reload",
        help="The same as the factor, turned round: 1 / factor.", cost="As with the factor.",
        fails="Given beside another factor, it is refused.",
        source="llama.cpp common/arg.cpp --rope-freq-scale",
    ),
    Knob(
        name="yarn_orig_ctx", lever="context", group="RoPE", kind="int", default=0, low=1, high=16_777_216, live_low=256,
        live_high=1_048_576, step=256, scale="log", unit="tokens", special=_MODELS_OWN, label="YaRN orig ctx",
        flags=("--yarn-orig-ctx",), applies="reload", help="The length the model was trained with, for YaRN.",
        cost="None.", fails="Wrong, and YaRN scales the wrong rotations.", source=_YARN + "--yarn-orig-ctx",
    ),
    Knob(
        name="yarn_ext_factor", lever="context", group="RoPE", kind="float", default=-1.0, low=0, high=1, step=0.05,
        special=((-1, "1 with YaRN, else 0"),), label="YaRN mix", flags=("--yarn-ext-factor",), applies="reload",
        help="How much fast rotations are left alone: 1 is YaRN, 0 is linear for all.",
        cost="Below 1, fine distances blur.", source=_YARN + "--yarn-ext-factor",
    ),
    Knob(
        name="yarn_attn_factor", lever="context", group="RoPE", kind="float", default=-1.0, low=0.1, high=10, live_high=4, step=0.05,
        special=((-1, "the model's own"),), label="YaRN attention", flags=("--yarn-attn-factor",), applies="reload",
        help="What queries and keys are multiplied by; with YaRN's mix at work llama.cpp sets 0.1 ln(factor) + 1 itself.",
        cost="None.", fails="Without effect unless the mix is 0.", source=_YARN + "--yarn-attn-factor",
    ),
    Knob(
        name="yarn_beta_fast", lever="context", group="RoPE", kind="float", default=-1.0, low=0.1, high=1024, live_high=64, step=1,
        special=((-1, "the model's own, or 32"),), label="YaRN beta fast", flags=("--yarn-beta-fast",), applies="reload",
        help="Rotations that turn more often than this within the trained length are left alone.",
        cost="None.", source=_YARN + "--yarn-beta-fast",
    ),
    Knob(
        name="yarn_beta_slow", lever="context", group="RoPE", kind="float", default=-1.0, low=0.01, high=1024, live_high=16, step=0.25,
        special=((-1, "the model's own, or 1"),), label="YaRN beta slow", flags=("--yarn-beta-slow",), applies="reload",
        help="Rotations that turn less often than this within the trained length are fully scaled.",
        cost="None.", source=_YARN + "--yarn-beta-slow",
    ),
)
