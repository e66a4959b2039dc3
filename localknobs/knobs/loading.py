"""The rows of loading that every model needs: context size, threads, batches; then all rows that shape a load."""

from __future__ import annotations

from localknobs.knobs.adapters import ADAPTERS
from localknobs.knobs.cache import CACHE
from localknobs.knobs.overflow import PARKING, WHEN_FULL
from localknobs.knobs.placement import PLACEMENT
from localknobs.knobs.record import Knob
from localknobs.knobs.rope import ROPE
from localknobs.knobs.speculation import SPECULATION

_LOAD: tuple[Knob, ...] = (
    Knob(
        name="n_ctx", lever="context", group="Load", kind="int", default=0, low=0, high=16_777_216, live_high=1_048_576, step=256,
        scale="log", unit="tokens", special=((0, "the model's own, as far as memory allows"),),
        label="context", flags=("-c", "--ctx-size"), applies="reload",
        help="How many tokens of conversation the model can see at once.",
        cost="The key-value cache grows in proportion; each token costs layers x KV heads x head size x 4 bytes at f16.",
        fails="Beyond the trained length answers fall apart unless RoPE is scaled.",
        source="llama.cpp common/arg.cpp --ctx-size",
    ),
    Knob(
        name="threads", lever="decode", group="Load", kind="int", default=0, low=0, high=512, live_high=32,
        special=((0, "auto: measured and adapted while generating"),), label="threads", flags=("-t", "--threads"),
        applies="next answer", help="CPU threads used for each token.",
        cost="One thread too many on a busy machine costs a factor of 3 and more.",
        fails="More threads than free cores wait for each other.",
        source="llama.cpp common/arg.cpp --threads",
        default_reason="llama.cpp takes all physical cores and never adapts.",
    ),
    Knob(
        name="n_batch", lever="decode", group="Load", kind="int", default=2048, low=1, high=65_536, live_high=8192, step=64,
        scale="log", unit="tokens", label="batch", flags=("-b", "--batch-size"), applies="reload",
        help="Most prompt tokens handed to llama.cpp in one call.",
        cost="Larger batches read prompts faster and need a larger output buffer.",
        source="llama.cpp common/arg.cpp --batch-size",
    ),
    Knob(
        name="n_ubatch", lever="decode", group="Load", kind="int", default=512, low=1, high=65_536, live_high=8192, step=64,
        scale="log", unit="tokens", label="micro-batch", flags=("-ub", "--ubatch-size"), applies="reload",
        help="Prompt tokens computed at once.",
        cost="The compute buffer grows in proportion.",
        source="llama.cpp common/arg.cpp --ubatch-size",
    ),
)

LOADING: tuple[Knob, ...] = (*_LOAD, *ROPE, *CACHE, *WHEN_FULL, *PARKING, *PLACEMENT, *SPECULATION, *ADAPTERS)
"""Every row that is a field of `LoadSettings`."""

BENCHED = ("threads", "n_batch", "n_ubatch", "n_gpu_layers", "cache_type_k", "cache_type_v", "flash_attn")
"""Those of which `localknobs bench` takes several values; all but the first need a new load."""
