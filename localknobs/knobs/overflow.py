"""The rows of what happens when the context is full: who is dropped, and how the rest closes up."""

from __future__ import annotations

from localknobs.knobs.record import Knob

WHEN_FULL: tuple[Knob, ...] = (
    Knob(
        name="context_full", lever="context", group="When full", kind="choice",
        choices=("stop", "turns", "sinks", "middle", "attended"), default="stop", label="when full",
        flags=("--context-full",), applies="next answer",
        help="What happens when the context is full: stop and say so; drop the oldest whole turns; keep sinks and a recent "
        "window; drop the middle; drop what received least attention.",
        cost="Dropped text is gone for the model. `attended` needs flash attention off, which costs memory and time.",
        fails="The model answers as if what was dropped had never been said.",
        source="sinks: StreamingLLM, arXiv:2309.17453; attended: H2O, arXiv:2306.14048",
    ),
    Knob(
        name="n_sink", lever="context", group="When full", kind="int", default=4, low=0, high=4096, live_high=64,
        unit="tokens", label="sink tokens", flags=("--n-sink",), applies="next answer",
        help="How many of the first tokens are always kept, beside the system prompt.",
        cost="Each takes one place of the recent window.",
        fails="0 with `sinks`: attention loses what it rests on, and the text falls apart.",
        source="StreamingLLM, arXiv:2309.17453, section 3.2",
    ),
    Knob(
        name="drop_by", lever="context", group="When full", kind="choice", choices=("auto", "shift", "hole", "reread"),
        default="auto", label="close up by", flags=("--drop-by",), applies="next answer",
        help="How the rest closes up: shift moves it in place; hole leaves positions empty until the trained length is "
        "reached; reread computes it again. auto shifts where that is right, else leaves holes.",
        cost="shift and hole cost next to nothing, and the kept text remembers what was dropped; reread takes the time of "
        "reading the window, and remembers nothing.",
        fails="shift is refused with YaRN, and with a quantized K where heads are rotated in part: it would corrupt the cache.",
        source="llama.cpp src/llama-kv-cache.cpp build_rope_shift",
    ),
    Knob(
        name="sliding_window", lever="context", group="When full", kind="int", default=0, low=16, high=1_048_576,
        live_high=65_536, step=64, scale="log", unit="tokens", special=((0, "off"),), off=0, label="emulated window",
        flags=("--sliding-window",), applies="next answer",
        help="Let the model see the sinks and this many recent tokens only: a sliding window, emulated by blocks in all layers "
        "alike (the window moves in steps of an eighth).",
        cost="Memory and time of attention stop growing; what is further back is gone.",
        fails="A model that was not trained with a window loses the thread.",
        source="emulated: decode in blocks, then llama_memory_seq_rm",
    ),
)

DROPS: tuple[tuple[str, str], ...] = (
    ("turns", "drop the oldest questions with their answers; the system prompt stays"),
    ("sinks", "keep the beginning and a recent window; nothing is read again"),
    ("middle", "keep the first half, and leave out what comes before the newest part"),
    ("attended", "drop what received least attention; slower, without flash attention"),
)
"""The values of `context_full` that go on, in the words of the question that is asked when a context is full."""

PARKING: tuple[Knob, ...] = (
    Knob(
        name="park_cache", lever="context", group="Put aside", kind="choice", choices=("off", "ram", "disk"), default="off",
        off="off", label="park cache", flags=("--park-cache",), applies="next answer",
        help="Put the cache of a conversation aside when you leave it: in memory until the program ends, or in a file, so that "
        "it is not read again when you come back.",
        cost="As much memory or disk as the cache takes: layers x KV heads x head size x 4 bytes a token at f16.",
        fails="Another model, RoPE, cache type or build: what was put aside is ignored, and the text is read again.",
        source="llama.h llama_state_seq_get_data",
    ),
    Knob(
        name="park_limit", lever="context", group="Put aside", kind="float", default=4.0, low=0.01, high=4096, live_low=0.25,
        live_high=64, step=0.25, scale="log", unit="GiB", label="park limit", flags=("--park-limit",), applies="next answer",
        help="How much all caches that are put aside may take together; those used longest ago go first.",
        cost="Disk or memory.", source="our own; llama.cpp keeps no such limit",
    ),
)
