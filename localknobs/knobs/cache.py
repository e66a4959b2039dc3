"""The rows of the key-value cache and of attention: the types it is kept in, where it lies."""

from __future__ import annotations

from localknobs.knobs.record import SWITCH, Knob

CACHE_TYPES = ("f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""What keys and values may be kept in (llama.cpp common/arg.cpp, kv_cache_types); others crash or give garbage."""

CACHE: tuple[Knob, ...] = (
    Knob(
        name="cache_type_k", lever="context", group="Cache", kind="choice", choices=CACHE_TYPES, default="f16",
        label="cache type K", flags=("-ctk", "--cache-type-k"), applies="reload",
        help="The type that keys are kept in.",
        cost="Bytes a value: f16 2, q8_0 1.06, q5_1 0.75, q5_0 0.69, q4_1 0.63, q4_0 and iq4_nl 0.56; f32 4.",
        fails="Keys suffer before values do: at 4 bits long contexts blur. Needs a head size that 32 divides.",
        source="llama.cpp common/arg.cpp --cache-type-k",
    ),
    Knob(
        name="cache_type_v", lever="context", group="Cache", kind="choice", choices=CACHE_TYPES, default="f16",
        label="cache type V", flags=("-ctv", "--cache-type-v"), applies="reload",
        help="The type that values are kept in; a quantized one needs flash attention.",
        cost="As with K.", fails="With flash attention off, a quantized one is refused.",
        source="llama.cpp common/arg.cpp --cache-type-v",
    ),
    Knob(
        name="flash_attn", lever="context", group="Cache", kind="choice", choices=("auto", "on", "off"), default="auto",
        label="flash attention", flags=("-fa", "--flash-attn"), applies="reload",
        help="Compute attention without writing the score matrix down.",
        cost="Off, the scores of a micro-batch against the whole context are kept: memory that grows with both.",
        fails="Off, no quantized V. Answers differ in the last digits between on and off.",
        source="llama.cpp common/arg.cpp --flash-attn",
    ),
    Knob(
        name="no_kv_offload", lever="context", group="Cache", kind="choice", choices=SWITCH, default="off", off="off",
        label="cache in RAM", flags=("-nkvo", "--no-kv-offload"), applies="reload",
        help="Keep the cache and attention on the CPU although layers are on the GPU.",
        cost="Frees the cache's share of GPU memory; every token waits for the CPU's attention.",
        source="llama.cpp common/arg.cpp --kv-offload",
    ),
    Knob(
        name="swa_full", lever="context", group="Cache", kind="choice", choices=SWITCH, default="off", off="off",
        label="full SWA cache", flags=("--swa-full",), applies="reload",
        help="Keep the whole context also in layers that only look at a sliding window.",
        cost="On, such layers take the memory of full ones. Off, an answer further back than the window is read again "
        "when you go back to it.",
        source="llama.cpp common/arg.cpp --swa-full",
    ),
)
