"""The rows of speculative decoding: who guesses tokens ahead, and how far."""

from __future__ import annotations

from localknobs.knobs.record import Knob

SPECULATION: tuple[Knob, ...] = (
    Knob(
        name="model_draft", lever="decode", group="Speculation", kind="text", default="", label="draft model", off="",
        flags=("-md", "--model-draft", "--spec-draft-model"), applies="reload",
        help="A small model with the same tokens that guesses ahead: a file or a name from `localknobs ls`.",
        cost="Its weights and its own cache, of the same context, in memory.",
        fails="A draft whose tokens are others is refused; one that guesses badly only costs time.",
        source="Leviathan 2022, arXiv:2211.17192; llama.cpp common/arg.cpp --model-draft",
    ),
    Knob(
        name="draft", lever="decode", group="Speculation", kind="choice", default="none", label="drafts", off="none",
        choices=("none", "ngram", "model", "auto"), flags=("--draft",), applies="next answer",
        help="Who guesses tokens ahead, which the model then checks together: nobody, the text itself where it repeats (ngram), the draft model, or whatever is measured to be fastest in this chat (auto).",
        cost="None in quality: the distribution stays exactly the same. A guess that is wrong costs part of a token's time.",
        fails="Where guesses are rarely right, or checking several tokens takes as long as writing them, it is slower; auto notices.",
        source="Leviathan 2022, arXiv:2211.17192; Saxena 2023, prompt lookup decoding; llama.cpp common/speculative.cpp",
        default_reason="llama.cpp drafts as soon as a draft model is named; here that alone means auto.",
    ),
    Knob(
        name="draft_max", lever="decode", group="Speculation", kind="int", default=8, low=1, high=64, live_high=16,
        unit="tokens", label="draft at most", flags=("--draft-max", "--spec-draft-n-max"), applies="next answer",
        help="Longest guess; below it the length follows what acceptance and checking are measured to be.",
        cost="Every wrong token of a guess was computed for nothing.",
        source="llama.cpp common/arg.cpp --spec-draft-n-max",
        default_reason="llama.cpp drafts 3 tokens every time; here this is only a limit.",
    ),
    Knob(
        name="draft_min", lever="decode", group="Speculation", kind="int", default=0, low=0, high=64, live_high=16, off=0,
        unit="tokens", label="draft at least", flags=("--draft-min", "--spec-draft-n-min"), applies="next answer",
        help="Shortest guess that is checked; shorter ones are thrown away.",
        cost="Guesses that would have been right are not used.",
        source="llama.cpp common/arg.cpp --spec-draft-n-min",
    ),
    Knob(
        name="draft_p_min", lever="decode", group="Speculation", kind="float", default=0.0, low=0, high=1, step=0.05,
        off=0.0, label="draft certainty", flags=("--draft-p-min", "--spec-draft-p-min"), applies="next answer",
        help="The draft model stops guessing at the first token it gives less probability than this.",
        cost="Shorter guesses; the draft's last token was computed for nothing.",
        source="llama.cpp common/arg.cpp --draft-p-min",
    ),
    Knob(
        name="draft_ngram", lever="decode", group="Speculation", kind="int", default=3, low=1, high=64, live_high=16,
        unit="tokens", label="n-gram", flags=("--draft-ngram", "--spec-ngram-simple-size-n"), applies="next answer",
        help="How many of the last tokens must have stood somewhere before for what followed there to be guessed again.",
        cost="Few: more guesses, more of them wrong. Many: guesses in plain repetitions only.",
        source="llama.cpp common/arg.cpp --spec-ngram-simple-size-n",
        default_reason="llama.cpp asks for 12; here longer matches come first, and short ones are used only if they pay.",
    ),
    Knob(
        name="n_gpu_layers_draft", lever="decode", group="Speculation", kind="int", default=-1, low=0, high=10_000,
        live_high=128, special=((-1, "all that fit"),), label="draft on GPU",
        flags=("-ngld", "--n-gpu-layers-draft", "--gpu-layers-draft", "--spec-draft-ngl"), applies="reload",
        help="How many layers of the draft model are computed on the GPU.",
        cost="Each layer takes its weights and its part of the cache from GPU memory.",
        source="llama.cpp common/arg.cpp --spec-draft-ngl",
    ),
)
