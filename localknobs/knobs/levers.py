"""The five levers as cards: what changes, when, where it lives, which trade-off it moves, what it costs, how it fails.

Read by the TUI, by `localknobs knobs` and by the docs.
"""

from __future__ import annotations

from dataclasses import dataclass

from localknobs.knobs.record import Lever


@dataclass(frozen=True, slots=True, kw_only=True)
class LeverCard:
    """One lever.

    Args:
        lever: Its key in the knob rows.
        title: Its name for people.
        summary: One sentence.
        changes: What object is different afterwards.
        when: At which moment it is turned.
        lives: Where the result is kept.
        trade_off: What is given for what.
        costs: What turning it takes, with figures.
        fails: How it goes wrong, and how that is noticed.
        sources: Papers or llama.cpp files.
    """

    lever: Lever
    title: str
    summary: str
    changes: str
    when: str
    lives: str
    trade_off: str
    costs: str
    fails: str
    sources: tuple[str, ...]

    @property
    def boxes(self) -> tuple[tuple[str, str], ...]:
        """The four questions of every card with their answers, in order, then price and failure."""
        return (
            ("What changes", self.changes), ("When", self.when), ("Where it lives", self.lives), ("Trade-off", self.trade_off),
            ("What it costs", self.costs), ("How it fails", self.fails),
        )  # fmt: skip


LEVERS: tuple[LeverCard, ...] = (
    LeverCard(
        lever="finetune", title="Fine-tune",
        summary="Train the model further on your own examples: all weights, or a small adapter beside them.",
        changes="The weights themselves (full), or two thin matrices beside each chosen weight (LoRA): W becomes W + (alpha / r) B A, "
        "with A of shape r x k drawn at random and B of shape d x r starting at zero.",
        when="Once, before use; an adapter can be put on, scaled and taken off while the model is loaded.",
        lives="In a new checkpoint (full), or in an adapter file of a few megabytes that needs its base model (LoRA, QLoRA).",
        trade_off="Skill at your task against what the model knew before, and against the hours of training.",
        costs="Full training holds weights, gradients and two optimizer moments: about 16 bytes a parameter. LoRA trains up to 10,000 times fewer "
        "parameters. QLoRA keeps the base in 4 bits: 65B fits one 48 GB card; a 70B model in 4 bits is 35 GB before anything else.",
        fails="Too many passes: the training loss falls while new text gets worse. Too much of one style: the model forgets the rest. "
        "A wrong chat template at training or export: gibberish.",
        sources=("arXiv:2106.09685 (LoRA)", "arXiv:2305.14314 (QLoRA)"),
    ),
    LeverCard(
        lever="quantize", title="Quantize",
        summary="Store each weight in fewer bits, so that a larger model fits and runs faster.",
        changes="The precision of the weights: blocks of 32 or 256 of them share a scale, and each keeps 2 to 8 bits.",
        when="Once, when a file is made; a quantized file is not quantized again.",
        lives="In a new GGUF file.",
        trade_off="Size and speed against fidelity to the original model.",
        costs="Minutes, and one pass over the weights. Q4_K_M takes about 4.8 bits a weight. Calibrated methods (importance matrix, GPTQ, AWQ) "
        "also need text and a run of the original model.",
        fails="Below 4 bits small models lose first. Averages hide it: look at the divergence (KL) from the original and at its worst tokens. "
        "Value projections, embeddings, the first and the last layers are the sensitive ones, and llama.cpp's mixes give them more bits.",
        sources=("llama.cpp src/llama-quant.cpp", "arXiv:2210.17323 (GPTQ)", "arXiv:2306.00978 (AWQ)"),
    ),
    LeverCard(
        lever="context", title="Extend the context",
        summary="Let the model see more text at once than it was trained for, and pay for it in memory.",
        changes="How positions are turned into angles (RoPE scaling), which tokens attention sees, and how the key-value cache is stored.",
        when="When the model is loaded; a changed RoPE makes every cached token stale.",
        lives="In load settings, or as keys in the header of a GGUF file; no weight changes.",
        trade_off="Length against memory, speed and sharpness at short range.",
        costs="The cache: layers x KV heads x head size x 4 bytes a token at f16. A 70B model with 8 KV heads takes 320 KiB a token, "
        "40 GiB at 131,072 tokens; with a cache of q8_0 about half.",
        fails="Linear scaling crowds near positions and blurs short prompts. NTK-aware scaling raises RoPE's base, so that fast-turning dimensions stay nearly as they were and "
        "slow ones are stretched; YaRN does it by parts. Beyond the trained range without any of them, text falls apart. Facts in the middle of a long context are found least.",
        sources=("arXiv:2306.15595 (linear)", "arXiv:2309.00071 (YaRN)", "arXiv:2309.17453 (attention sinks)"),
    ),
    LeverCard(
        lever="prune", title="Prune",
        summary="Remove weights, heads or whole layers that matter least.",
        changes="The architecture (structured: fewer layers, heads or channels), or zeros inside unchanged matrices (unstructured).",
        when="Once, before quantizing; a short training (healing) after it wins most of the loss back.",
        lives="In a new checkpoint or GGUF file.",
        trade_off="Size and speed against knowledge; structured pruning gives real speed, zeros alone give none in llama.cpp.",
        costs="Scoring needs text and a run of the model; healing needs training.",
        fails="Layers are not equal: removing the first or the last ones breaks the model. Zeros in a GGUF save neither memory nor time, as no ggml backend skips them.",
        sources=("arXiv:2306.11695 (Wanda)", "arXiv:2301.00774 (SparseGPT)", "arXiv:2403.17887 (depth pruning)"),
    ),
    LeverCard(
        lever="decode", title="Decode",
        summary="Choose how the next token is drawn from the model's probabilities.",
        changes="No weight: only which of the likely tokens is taken, and in what order the samplers cut the list.",
        when="At every token; a slider takes effect at the next one.",
        lives="In the request and in presets.",
        trade_off="Repeatability against variety; with speculation, memory for speed.",
        costs="Next to nothing beside the model, except grammars and very large vocabularies.",
        fails="Temperature 0 repeats itself, and is the same only as far as rounding is: another batch size or quantization kernel can flip a near tie. "
        "High temperature without truncation breaks sentences. The repetition penalty divides (or, below zero, multiplies) scores, and above about 1.2 forbids needed words.",
        sources=("llama.cpp src/llama-sampler.cpp", "arXiv:1904.09751 (top-p)", "arXiv:2407.01082 (min-p)"),
    ),
)  # fmt: skip
"""The cards, in the order of the program."""
