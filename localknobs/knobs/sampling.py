"""The sampling rows: everything that decides which token comes next, in llama.cpp's names and defaults.

Defaults are those of `common_params_sampling` (llama.cpp common/common.h, libllama 0.5.0).
"""

from __future__ import annotations

from localknobs.knobs.record import Knob

SAMPLER_ORDER: tuple[str, ...] = (
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature",
)
"""llama.cpp's default chain; grammar and logit bias always come before it, the draw after it."""

_ARG = "llama.cpp common/arg.cpp"
_SAMPLER = "llama.cpp src/llama-sampler.cpp"

SAMPLING: tuple[Knob, ...] = (
    Knob(
        name="temp", lever="decode", group="Randomness", kind="float", default=0.8, low=0.0, high=5.0, step=0.05,
        live_high=2.0, special=((0, "always the likeliest token"),), label="temperature",
        flags=("--temp", "--temperature"), applies="next token",
        help="Divides the scores before they become probabilities: low is focused, high is varied.",
        cost="Nothing in time or memory; trades repeatability against variety.",
        fails="Above about 1.5 without truncation, rare tokens break the sentence.",
        source=f"{_ARG} --temp; Ackley et al. 1985",
    ),
    Knob(
        name="top_k", lever="decode", group="Truncation", kind="int", default=40, low=0, high=1_000_000, step=1,
        scale="log", live_high=1000, off=0, special=((0, "off"),), label="top-k", flags=("--top-k",),
        applies="next token", help="Keeps only the k likeliest tokens.",
        cost="Makes later samplers cheaper.", fails="A fixed count is too wide when the model is sure and too narrow when not.",
        source=f"{_SAMPLER}; Fan et al. 2018, arXiv:1805.04833",
    ),
    Knob(
        name="top_p", lever="decode", group="Truncation", kind="float", default=0.95, low=0.0, high=1.0, step=0.01,
        off=1.0, special=((1, "off"),), label="top-p", flags=("--top-p",), applies="next token",
        help="Keeps the smallest set of likeliest tokens whose probabilities add up to p.",
        cost="One sort of the candidates.", fails="At high temperature the set grows to let nonsense in, if temperature comes first.",
        source=f"{_SAMPLER}; Holtzman et al. 2019, arXiv:1904.09751",
    ),
    Knob(
        name="min_p", lever="decode", group="Truncation", kind="float", default=0.05, low=0.0, high=1.0, step=0.01,
        off=0.0, special=((0, "off"),), label="min-p", flags=("--min-p",), applies="next token",
        help="Drops tokens less likely than this share of the likeliest one.",
        cost="Nothing measurable.", fails="Near 1 it leaves the likeliest token alone.",
        source=f"{_SAMPLER}; Nguyen et al. 2024, arXiv:2407.01082",
    ),
    Knob(
        name="typ_p", lever="decode", group="Truncation", kind="float", default=1.0, low=0.0, high=1.0, step=0.01,
        off=1.0, special=((1, "off"),), label="typical-p", flags=("--typical", "--typical-p"), applies="next token",
        help="Keeps tokens whose surprise is near the average surprise, up to this much probability.",
        cost="One sort of the candidates.", fails="Low values can drop the likeliest token.",
        source=f"{_SAMPLER}; Meister et al. 2022, arXiv:2202.00666",
    ),
    Knob(
        name="top_n_sigma", lever="decode", group="Truncation", kind="float", default=-1.0, low=0.0, high=10.0, step=0.1,
        live_high=5.0, off=-1.0, special=((-1, "off"),), label="top-n-sigma", flags=("--top-nsigma", "--top-n-sigma"),
        applies="next token", help="Keeps tokens within n standard deviations of the best score.",
        cost="One pass over the scores.", fails="At 0 in this llama.cpp it is off, not greedy.",
        source=f"{_SAMPLER}; Tang et al. 2024, arXiv:2411.07641",
    ),
    Knob(
        name="xtc_probability", lever="decode", group="XTC", kind="float", default=0.0, low=0.0, high=1.0, step=0.05,
        off=0.0, special=((0, "off"),), label="XTC chance", flags=("--xtc-probability",), applies="next token",
        help="Chance, at each token, of removing the likeliest choices when several are good.",
        cost="Nothing measurable; trades safety against surprise.", fails="High values with a low threshold lose the thread.",
        source=f"{_SAMPLER}; llama.cpp pull request 9742",
    ),
    Knob(
        name="xtc_threshold", lever="decode", group="XTC", kind="float", default=0.1, low=0.0, high=1.0, step=0.01,
        label="XTC threshold", flags=("--xtc-threshold",), applies="next token",
        help="Tokens above this probability, all but the least likely of them, can be removed; above 0.5 XTC is off.",
        cost="Nothing measurable.", source=f"{_SAMPLER}; llama.cpp pull request 9742",
    ),
    Knob(
        name="dynatemp_range", lever="decode", group="Randomness", kind="float", default=0.0, low=0.0, high=5.0, step=0.05,
        live_high=2.0, off=0.0, special=((0, "off"),), label="dynamic temp", flags=("--dynatemp-range",), applies="next token",
        help="Lets the temperature move by this much around its setting: lower when the model is sure, higher when not.",
        cost="Nothing measurable.", source=f"{_SAMPLER}, temp_ext",
    ),
    Knob(
        name="dynatemp_exponent", lever="decode", group="Randomness", kind="float", default=1.0, low=0.0, high=10.0, step=0.1,
        live_high=4.0, label="dynamic exponent", flags=("--dynatemp-exp",), applies="next token",
        help="How strongly uncertainty drives the dynamic temperature.",
        cost="Nothing measurable.", source=f"{_SAMPLER}, temp_ext",
    ),
    Knob(
        name="mirostat", lever="decode", group="Mirostat", kind="int", default=0, low=0, high=2,
        off=0, special=((0, "off"), (1, "version 1"), (2, "version 2")), label="mirostat", flags=("--mirostat",),
        applies="next token", help="Steers the surprise of the text to a target; replaces every truncation sampler.",
        cost="Top-k, top-p and the rest are ignored while it is on.", source=f"{_SAMPLER}; Basu et al. 2020, arXiv:2007.14966",
    ),
    Knob(
        name="mirostat_tau", lever="decode", group="Mirostat", kind="float", default=5.0, low=0.0, high=20.0, step=0.1,
        live_high=10.0, unit="bits", label="mirostat tau", flags=("--mirostat-ent",), applies="next token",
        help="Surprise that mirostat aims at; lower is more focused.", cost="Nothing measurable.",
        source=f"{_SAMPLER}; arXiv:2007.14966",
    ),
    Knob(
        name="mirostat_eta", lever="decode", group="Mirostat", kind="float", default=0.1, low=0.0, high=1.0, step=0.01,
        label="mirostat eta", flags=("--mirostat-lr",), applies="next token",
        help="How fast mirostat corrects itself.", cost="Nothing measurable.", source=f"{_SAMPLER}; arXiv:2007.14966",
    ),
    Knob(
        name="adaptive_target", lever="decode", group="Adaptive-p", kind="float", default=-1.0, low=0.0, high=1.0, step=0.01,
        off=-1.0, special=((-1, "off"),), label="adaptive-p target", flags=("--adaptive-target",), applies="next token",
        help="Prefers tokens near this probability and corrects itself from the ones it chose.",
        cost="Nothing measurable; trades likelihood against variety.", fails="Low targets without min-p choose nonsense.",
        source=f"{_SAMPLER}, adaptive_p; llama.cpp pull request 17927",
    ),
    Knob(
        name="adaptive_decay", lever="decode", group="Adaptive-p", kind="float", default=0.9, low=0.0, high=0.99, step=0.01,
        label="adaptive-p decay", flags=("--adaptive-decay",), applies="next token",
        help="How long adaptive-p remembers: about 1 / (1 - decay) tokens.", cost="Nothing measurable.",
        source=f"{_SAMPLER}, adaptive_p",
    ),
    Knob(
        name="repeat_penalty", lever="decode", group="Repetition", kind="float", default=1.0, low=0.01, high=10.0, step=0.01,
        live_high=2.0, off=1.0, special=((1, "off"),), label="repeat penalty", flags=("--repeat-penalty",), applies="next token",
        help="Divides the score of tokens already in the window (multiplies it when negative).",
        cost="Nothing measurable.", fails="Above about 1.2 it forbids words the answer needs.",
        source=f"{_SAMPLER}; Keskar et al. 2019 (CTRL), arXiv:1909.05858",
    ),
    Knob(
        name="frequency_penalty", lever="decode", group="Repetition", kind="float", default=0.0, low=-10.0, high=10.0, step=0.05,
        live_low=-2.0, live_high=2.0, off=0.0, special=((0, "off"),), label="frequency penalty", flags=("--frequency-penalty",), applies="next token",
        help="Subtracts this much from a token's score for each time it stands in the window.",
        cost="Nothing measurable.", fails="High values forbid common words.", source=f"{_SAMPLER}",
    ),
    Knob(
        name="presence_penalty", lever="decode", group="Repetition", kind="float", default=0.0, low=-10.0, high=10.0, step=0.05,
        live_low=-2.0, live_high=2.0, off=0.0, special=((0, "off"),), label="presence penalty", flags=("--presence-penalty",), applies="next token",
        help="Subtracts this much once from the score of every token in the window.",
        cost="Nothing measurable.", fails="High values change the subject.", source=f"{_SAMPLER}",
    ),
    Knob(
        name="repeat_last_n", lever="decode", group="Repetition", kind="int", default=64, low=0, high=1_000_000, step=16,
        scale="log", live_high=8192, unit="tokens", off=0, special=((0, "off"),), label="penalty window",
        flags=("--repeat-last-n",), applies="next token",
        help="How many of the last tokens, prompt included, the three penalties look at.",
        cost="Nothing measurable.", source=f"{_ARG} --repeat-last-n",
    ),
    Knob(
        name="dry_multiplier", lever="decode", group="DRY", kind="float", default=0.0, low=0.0, high=10.0, step=0.05,
        live_high=2.0, off=0.0, special=((0, "off"),), label="DRY", flags=("--dry-multiplier",), applies="next token",
        help="Penalizes tokens that would continue a passage already written, the more the longer it is.",
        cost="Nothing measurable with a short window.", source=f"{_SAMPLER}; llama.cpp pull request 9702",
    ),
    Knob(
        name="dry_base", lever="decode", group="DRY", kind="float", default=1.75, low=1.0, high=10.0, step=0.05,
        live_high=4.0, label="DRY base", flags=("--dry-base",), applies="next token",
        help="How fast the DRY penalty grows with the length of the repeated passage.",
        cost="Nothing measurable.", source=f"{_SAMPLER}, dry",
    ),
    Knob(
        name="dry_allowed_length", lever="decode", group="DRY", kind="int", default=2, low=0, high=1000, step=1,
        live_high=20, unit="tokens", label="DRY free length", flags=("--dry-allowed-length",), applies="next token",
        help="Repeated passages up to this length cost nothing.", cost="Nothing measurable.", source=f"{_SAMPLER}, dry",
    ),
    Knob(
        name="dry_penalty_last_n", lever="decode", group="DRY", kind="int", default=64, low=0, high=1_000_000, step=16,
        scale="log", live_high=8192, unit="tokens", off=0, special=((0, "off"),), label="DRY window",
        flags=("--dry-penalty-last-n",), applies="next token", help="How many of the last tokens DRY searches.",
        cost="Time grows with the window.", source=f"{_ARG} --dry-penalty-last-n",
    ),
    Knob(
        name="dry_sequence_breakers", lever="decode", group="DRY", kind="texts", default=("\n", ":", '"', "*"),
        label="DRY breakers", flags=("--dry-sequence-breaker",), applies="next token",
        help="Texts at which DRY starts its search afresh.", cost="Nothing measurable.", source=f"{_SAMPLER}, dry",
    ),
    Knob(
        name="seed", lever="decode", group="Run", kind="int", default=-1, low=0, high=4_294_967_294, step=1,
        special=((-1, "a new one each answer"),), label="seed", flags=("--seed",), applies="next answer",
        help="Starts the random draws; the same seed and settings repeat the same answer on the same machine.",
        cost="Nothing.", fails="Another batch size, thread count or machine can still change the numbers a little.",
        source=f"{_ARG} --seed",
    ),
    Knob(
        name="n_predict", lever="decode", group="Run", kind="int", default=-1, low=1, high=16_777_216, step=16,
        scale="log", live_high=8192, unit="tokens", special=((-1, "until the model ends or the context is full"),),
        label="max tokens", flags=("-n", "--predict", "--n-predict"), applies="next token",
        help="Most tokens an answer may have.", cost="Nothing.", source=f"{_ARG} --predict",
    ),
    Knob(
        name="logit_bias", lever="decode", group="Advanced", kind="bias", default=(), off=(), label="logit bias",
        flags=("--logit-bias",), applies="next token", help="Adds a number to the score of single tokens.",
        cost="Nothing measurable.", fails="A large bias makes one token come every time.", source=f"{_ARG} --logit-bias",
    ),
    Knob(
        name="samplers", lever="decode", group="Advanced", kind="names", default=SAMPLER_ORDER,
        choices=(*SAMPLER_ORDER, "adaptive_p"), label="sampler order", flags=("--samplers",), applies="next token",
        help="The chain, first to last; a name left out is not run. Temperature last means truncation sees T=1.",
        cost="Nothing.", fails="Temperature before top-p lets more tokens through at high values.",
        source=f"{_ARG} --samplers",
    ),
    Knob(
        name="grammar", lever="decode", group="Advanced", kind="text", default="", off="", label="grammar (GBNF)",
        flags=("--grammar",), applies="next answer", help="Only tokens that keep the answer inside this grammar are allowed.",
        cost="Slower: each candidate is checked against the grammar.", fails="A grammar that cannot end runs to the token limit.",
        source="llama.cpp grammars/README.md",
    ),
    Knob(
        name="stop", lever="decode", group="Advanced", kind="texts", default=(), off=(), label="stop strings",
        flags=("-r", "--reverse-prompt"), applies="next token",
        help="The answer ends before any of these texts would appear.", cost="Nothing measurable.", source=f"{_ARG} --reverse-prompt",
    ),
)
