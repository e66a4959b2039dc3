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
        """The four boxes of every card, question and answer, then price and failure."""
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
        costs="Full training holds weights, gradients and two optimizer moments: about 16 bytes a parameter, before activations. LoRA trains a small fraction "
        "of the parameters (its paper counts 10,000 times fewer for GPT-3 175B). QLoRA keeps the base in 4 bits: its paper trains 65B on one 48 GB card; "
        "the weights of a 70B model in 4 bits are 35 GB before anything else.",
        fails="Too many passes: the training loss falls while new text gets worse. Too much of one style: the model forgets other things; a test on general text "
        "before and after shows it. Another chat template in use than in training: poor answers. An adapter put on in mid-conversation: what the cache holds is stale.",
        sources=("arXiv:2106.09685 (LoRA)", "arXiv:2305.14314 (QLoRA)"),
    ),
    LeverCard(
        lever="quantize", title="Quantize",
        summary="Store each weight in fewer bits, so that a larger model fits and runs faster.",
        changes="The precision of the weights: blocks of 32 or 256 of them share scales, and each keeps from under 2 to 8 bits.",
        when="Once, when a file is made, from 16 bits or more: quantizing a quantized file again adds up the errors.",
        lives="In a new GGUF file.",
        trade_off="Size and speed against fidelity to the original model.",
        costs="Minutes, and one pass over the weights. Q4_K_M takes about 4.9 bits a weight, Q8_0 8.5. Calibrated methods (importance matrix, GPTQ, AWQ) "
        "also need text and a run of the original model.",
        fails="The loss grows fast below 4 bits: Llama 3 8B's mean divergence (KL) from the original is 0.001 at Q8_0, 0.03 at Q4_K_M, 0.10 at Q3_K_M and 0.45 at Q2_K. "
        "Averages hide it: look at the worst tokens too. Value projections, embeddings, the first and the last layers are usually the sensitive ones, and llama.cpp's "
        "mixes give them more bits; which ones matter in your model is a matter of measuring.",
        sources=("llama.cpp src/llama-quant.cpp", "llama.cpp tools/perplexity/README.md", "arXiv:2210.17323 (GPTQ)", "arXiv:2306.00978 (AWQ)"),
    ),
    LeverCard(
        lever="context", title="Extend the context",
        summary="Let the model see more text at once than it was trained for, and pay for it in memory.",
        changes="How positions are turned into angles (RoPE scaling), which tokens attention sees, and how the key-value cache is stored.",
        when="When the model is loaded; a changed RoPE makes every cached token stale.",
        lives="In load settings, or as keys in the header of a GGUF file; no weight changes.",
        trade_off="Length against memory, speed and sharpness at short range.",
        costs="The cache: layers x KV heads x head size x 4 bytes a token at f16 (a key and a value of 2 bytes each). A 70B model with 80 layers and 8 KV heads takes "
        "320 KiB a token, 40 GiB at 131,072 tokens; with a cache of q8_0 about half. Reading a prompt costs attention that grows with its square.",
        fails="Without scaling, text falls apart beyond the trained range. Linear scaling crowds near positions together. NTK-aware scaling raises RoPE's base: fast-turning dimensions "
        "stay nearly as they were, slow ones are stretched; YaRN does the same by explicit parts. Every one of them changes short prompts a little too. Facts in the middle "
        "of a long context are often found worst. A scaling on top of one the model already has compounds.",
        sources=("arXiv:2306.15595 (linear)", "arXiv:2309.00071 (YaRN)", "arXiv:2309.17453 (attention sinks)"),
    ),
    LeverCard(
        lever="prune", title="Prune",
        summary="Remove weights, heads or whole layers that matter least.",
        changes="The architecture (structured: fewer layers, heads or channels), or zeros inside unchanged matrices (unstructured).",
        when="Once, before quantizing; a short training (healing) after it wins much of the loss back.",
        lives="In a new checkpoint or GGUF file.",
        trade_off="Size and speed against knowledge. Removing structure gives both; zeros alone give neither in llama.cpp.",
        costs="Scoring needs text and a run of the model; healing needs training.",
        fails="Layers are not equal: removing one of the first or the last usually breaks the model. Zeros in a GGUF save neither memory nor time, as no ggml backend skips them, "
        "and some types do not even keep them: Q4_K, Q5_K, Q2_K and all IQ types write small values there, while Q4_0, Q5_0, Q8_0, Q3_K and Q6_K keep zeros.",
        sources=("arXiv:2306.11695 (Wanda)", "arXiv:2301.00774 (SparseGPT)", "arXiv:2403.17887 (depth pruning)"),
    ),
    LeverCard(
        lever="decode", title="Decode",
        summary="Choose how the next token is drawn from the model's probabilities.",
        changes="No weight: only which of the likely tokens is taken, and in what order the samplers cut the list.",
        when="At every token; a slider takes effect at the next one.",
        lives="In the request and in presets.",
        trade_off="Repeatability against variety; with speculative decoding, memory for speed at the same distribution.",
        costs="Next to nothing beside the model, except grammars and very large vocabularies.",
        fails="Temperature 0 can run into loops, and repeats an answer only as far as rounding does: another batch size or kernel can flip a near tie. "
        "High temperature without truncation breaks sentences. The repetition penalty adds nothing: it divides scores above zero and multiplies those below, "
        "and beyond about 1.2 it can forbid needed words.",
        sources=("llama.cpp src/llama-sampler.cpp", "arXiv:1904.09751 (top-p)", "arXiv:2407.01082 (min-p)"),
    ),
)  # fmt: skip
"""The cards, in the order of the program."""
