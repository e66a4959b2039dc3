"""The rows of fine-tuning: the adapter, the training, the data."""

from __future__ import annotations

from localknobs.knobs.record import SWITCH, Knob

FINETUNE: tuple[Knob, ...] = (
    Knob(
        name="method", lever="finetune", group="Method", kind="choice", choices=("auto", "lora", "qlora", "full"),
        default="auto", label="method", flags=("--method",), applies="new file",
        help="What is trained: an adapter (lora), an adapter over quantized weights (qlora: those of a GGUF file as they "
        "are, or of a checkpoint that is quantized first), or all weights (full). auto: qlora for a GGUF file, else lora.",
        cost="Memory: qlora the least, full about 20 bytes a weight. qlora is slower, since weights are unpacked at each use.",
        fails="full with few examples: what the model knew is forgotten faster than by an adapter.",
        source="LoRA, arXiv:2106.09685; QLoRA, arXiv:2305.14314",
    ),
    Knob(
        name="quantize_base", lever="finetune", group="Method", kind="choice",
        choices=("auto", "NF4", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "Q3_K_M", "Q2_K"),
        default="auto", label="base type", flags=("--quantize-base",), applies="new file",
        help="Type that a checkpoint is quantized to before qlora trains over it. auto: NF4 where there are a card by "
        "NVIDIA and bitsandbytes, else Q4_K_M. The adapter learns that type's error too: use it with that file.",
        cost="Fewer bits, less memory.", fails="Below 4 bits the adapter spends itself on mending the base.",
        source="QLoRA, arXiv:2305.14314, section 3",
    ),
    Knob(
        name="lora_r", lever="finetune", group="Adapter", kind="int", default=16, low=1, high=1024, live_high=256,
        scale="log", label="rank", flags=("--lora-r", "-r"), applies="new file",
        help="Rank of the two thin matrices beside each chosen weight: how much an adapter can learn.",
        cost="Size of the adapter and of the optimizer grow with it.",
        fails="Too small: the loss stays on a plateau. Too large for the data: held-out loss rises.",
        source="LoRA, arXiv:2106.09685, section 4.1",
    ),
    Knob(
        name="lora_alpha", lever="finetune", group="Adapter", kind="float", default=0.0, low=0.0, high=4096.0,
        live_high=512.0, special=((0, "2×rank"),), label="alpha", flags=("--lora-alpha",), applies="new file",
        help="Strength of the adapter: its product is multiplied by alpha / rank (with rsLoRA by alpha / root of rank).",
        cost="None.", fails="Too high acts as a learning rate too high: the loss jumps.",
        source="LoRA, arXiv:2106.09685, section 4.1",
    ),
    Knob(
        name="lora_targets", lever="finetune", group="Adapter", kind="text", default="all-linear", label="targets",
        flags=("--targets",), applies="new file",
        help="Weights that get an adapter: all-linear, attention, mlp, or names of modules separated by commas.",
        cost="Each target adds parameters and time.", fails="attention alone: new facts and forms are learned worse.",
        source="QLoRA, arXiv:2305.14314, section 4 (all linear layers are needed to match full training)",
    ),
    Knob(
        name="lora_dropout", lever="finetune", group="Adapter", kind="float", default=0.0, low=0.0, high=0.9, step=0.05,
        off=0.0, label="dropout", flags=("--lora-dropout",), applies="new file",
        help="Share of the adapter's inputs that are left out at random in each step.",
        cost="Slower learning.", fails="High values: underfitting.", source="LoRA, arXiv:2106.09685",
    ),
    Knob(
        name="rslora", lever="finetune", group="Adapter", kind="choice", choices=SWITCH, default="off", label="rsLoRA",
        flags=("--rslora",), applies="new file", help="Divide alpha by the root of the rank, which keeps high ranks stable.",
        cost="None.", fails="At the same alpha the adapter is stronger: lower the learning rate.",
        source="rsLoRA, arXiv:2312.03732",
    ),
    Knob(
        name="dora", lever="finetune", group="Adapter", kind="choice", choices=SWITCH, default="off", label="DoRA",
        flags=("--dora",), applies="new file", help="Learn the length of each weight's rows apart from their direction.",
        cost="Slower steps; a GGUF adapter cannot hold it, only a merged model can.", fails="As LoRA does.",
        source="DoRA, arXiv:2402.09353",
    ),
    Knob(
        name="learning_rate", lever="finetune", group="Training", kind="float", default=0.0, low=0.0, high=1.0,
        live_high=0.01, step=0.00005, scale="log", special=((0, "auto"),), label="learning rate", flags=("--lr",),
        applies="new file", help="Size of a step at its largest; auto: by the model's width.", cost="None.",
        fails="Too high: the loss jumps or becomes no number, and general text gets worse. Too low: it hardly falls.",
        source="2e-4 at a width of 4096: QLoRA, arXiv:2305.14314, appendix B.2",
    ),
    Knob(
        name="epochs", lever="finetune", group="Training", kind="float", default=0.0, low=0.0, high=1000.0, live_high=20.0,
        step=0.5, special=((0, "auto"),), label="epochs", flags=("--epochs",), applies="new file",
        help="How often the data is read; auto: by the number of examples.", cost="Time.", fails="Too many: held-out loss rises while training loss falls.",
        source="QLoRA, arXiv:2305.14314, appendix B.2",
    ),
    Knob(
        name="max_steps", lever="finetune", group="Training", kind="int", default=0, low=0, high=10_000_000,
        live_high=10_000, special=((0, "none"),), unit="steps", label="most steps", flags=("--max-steps",),
        applies="new file", help="Most steps, whatever the epochs are.", cost="Time.", fails="Too few: underfitting.",
        source="localknobs",
    ),
    Knob(
        name="train_batch", lever="finetune", group="Training", kind="int", default=8, low=1, high=4096, live_high=128,
        scale="log", unit="examples", label="batch", flags=("--batch-size", "-b"), applies="new file",
        help="Examples that are computed together.", cost="Memory of activations grows with it.",
        fails="Very large with few examples: too few steps to learn.", source="PyTorch",
    ),
    Knob(
        name="accumulation", lever="finetune", group="Training", kind="int", default=1, low=1, high=4096, live_high=64,
        scale="log", unit="batches", label="accumulation", flags=("--accumulate",), applies="new file",
        help="Batches whose gradients make one step: a larger batch in the memory of a small one.",
        cost="Time, in proportion.", fails="As a batch too large.", source="PyTorch",
    ),
    Knob(
        name="packing", lever="finetune", group="Training", kind="choice", choices=SWITCH, default="off", label="packing",
        flags=("--packing",), applies="new file",
        help="Put several short examples of a batch into one row, up to the length, where none sees another. The batch still "
        "counts examples, and the losses are the same.",
        cost="None in quality. Off by default: a batch has examples of like length, and where 4% of it were empty (the flags set) packed rows were slower, since attention is masked in longer ones.",
        fails="Models whose layers are no attention let examples see each other: they are refused.",
        source="arXiv:2107.02027",
    ),
    Knob(
        name="seq_length", lever="finetune", group="Training", kind="int", default=0, low=8, high=1_048_576,
        live_high=32_768, scale="log", special=((0, "auto"),), unit="tokens", label="length", flags=("--seq-length",),
        applies="new file",
        help="Longest example; what is longer is cut at its end. Auto: as far as the model sees, at most 2048.",
        cost="Memory of activations grows with it.", fails="Too short: answers are cut off before they end.",
        source="localknobs",
    ),
    Knob(
        name="warmup", lever="finetune", group="Training", kind="float", default=0.03, low=0.0, high=1.0, step=0.01,
        off=0.0, label="warm-up", flags=("--warmup",), applies="new file",
        help="Share of the steps in which the learning rate rises from 0.", cost="None.",
        fails="0: the first steps, with an optimizer that knows nothing yet, can do harm.",
        source="QLoRA, arXiv:2305.14314, appendix B.2",
    ),
    Knob(
        name="schedule", lever="finetune", group="Training", kind="choice", choices=("cosine", "linear", "constant"),
        default="cosine", label="schedule", flags=("--schedule",), applies="new file",
        help="How the learning rate falls after the warm-up.", cost="None.",
        fails="constant: the last steps stay noisy.", source="SGDR, arXiv:1608.03983",
    ),
    Knob(
        name="weight_decay", lever="finetune", group="Training", kind="float", default=0.0, low=0.0, high=1.0, step=0.01,
        off=0.0, label="weight decay", flags=("--weight-decay",), applies="new file",
        help="Pull of the adapter back to zero.", cost="None.", fails="High values: underfitting.",
        source="AdamW, arXiv:1711.05101",
    ),
    Knob(
        name="patience", lever="finetune", group="Training", kind="int", default=3, low=0, high=1000, live_high=20,
        special=((0, "never"),), unit="looks", label="patience", flags=("--patience",), applies="new file",
        help="Stop early when the held-out loss has not fallen for so many looks; the best adapter is kept.",
        cost="None.", fails="Small values stop on a plateau that would have been left.", source="localknobs",
    ),
    Knob(
        name="eval_steps", lever="finetune", group="Watching", kind="int", default=0, low=0, high=1_000_000,
        live_high=500, special=((0, "auto"),), unit="steps", label="look every",
        flags=("--eval-steps",), applies="new file",
        help="Steps between two looks at held-out examples and general text; the best adapter at a look is kept. Auto: a twelfth of all steps, at most 200.",
        cost="Each look takes the time of some steps.", fails="Too large: the best adapter is missed.", source="localknobs",
    ),
    Knob(
        name="sample_steps", lever="finetune", group="Watching", kind="int", default=0, low=0, high=1_000_000,
        live_high=500, special=((0, "looks"),), unit="steps", label="samples every", flags=("--sample-steps",),
        applies="new file", help="Steps between two answers to the sample prompts, which show what the losses mean; at each look when not given.",
        cost="Each answer takes as long as a chat's.", fails="Small values slow a training down; nothing else changes.",
        source="localknobs",
    ),
    Knob(
        name="held_out_share", lever="finetune", group="Data", kind="float", default=0.1, low=0.0, high=0.5, step=0.05,
        off=0.0, label="held out", flags=("--held-out-share",), applies="new file",
        help="Share of the examples that are kept back, chosen by their hash, so that new data moves none of the old.",
        cost="So much less to learn from.", fails="0: overfitting is not seen, and there is no early stop.",
        source="localknobs",
    ),
    Knob(
        name="rehearsal_share", lever="finetune", group="Against forgetting", kind="float", default=0.5, low=0.0, high=0.9,
        step=0.05, off=0.0, label="rehearsal", flags=("--rehearsal-share",), applies="new file",
        help="Share of the rows of each step that are old ones (--rehearsal), read beside the batch: there the model is held to "
        "what its base says, by their divergence (KL). Nothing that is learned or measured is among them.",
        cost="Time: each old row costs what a new one of its length does. No memory but 260 bytes a token of them.",
        fails="0: what was not in the data is forgotten. High: slow; the pull back outweighs few new rows.",
        source="Learning without forgetting, arXiv:1606.09282; experience replay, arXiv:1811.11682",
    ),
    Knob(
        name="rehearsal_weight", lever="finetune", group="Against forgetting", kind="float", default=1.0, low=0.0, high=100.0,
        live_high=10.0, step=0.1, off=0.0, label="pull to base", flags=("--rehearsal-weight",), applies="new file",
        help="Weight of the divergence from the base at old rows, against the loss of the new ones.",
        cost="None.", fails="Too high: the new is learned slowly. Too low: as without rehearsal.",
        source="KL regularisation to the base, arXiv:1909.08593, section 2",
    ),
    Knob(
        name="train_seed", lever="finetune", group="Training", kind="int", default=1, low=0, high=2**31 - 1, label="seed",
        flags=("--seed",), applies="new file", help="Of the order of the data, the adapter's first values and dropout.",
        cost="None.", fails="Another seed, another result: small differences mean nothing.", source="PyTorch",
    ),
)
"""Every knob of `localknobs finetune`."""
