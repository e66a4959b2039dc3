"""Write the model card and the picture of the losses: `python models/recipe/card.py`.

Reads `models/evaluation.json` (evaluate.py) and the checkpoint with its `training_log.jsonl` (train.py).
Needs matplotlib, which the `train` extra brings.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

from safetensors.numpy import load_file

MODELS = Path(__file__).resolve().parent.parent
EXAMPLES = ("temperature.what", "quant.choose", "levers.list", "passkey", "story", "unknown")


def interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share, in percent."""
    share, z = right / count, 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return 100 * (middle - half), 100 * (middle + half)


def table(answers: list[dict[str, object]]) -> str:
    """Return the table of right answers by group, with the intervals."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        groups[str(answer["group"])].append(bool(answer["right"]))
    groups["**all**"] = [bool(answer["right"]) for answer in answers]
    lines = ["| asked about | questions | right | share | 95% interval |", "|---|---:|---:|---:|---:|"]
    for name, right in groups.items():
        low, high = interval(sum(right), len(right))
        lines.append(
            f"| {name} | {len(right)} | {sum(right)} | {sum(right) / len(right):.1%} | {low:.0f}% to {high:.0f}% |"
        )
    return "\n".join(lines)


def examples(answers: list[dict[str, object]]) -> str:
    """Return one question and answer of each of some topics, right or wrong, the first of each."""
    lines = []
    for topic in EXAMPLES:
        answer = next(item for item in answers if item["topic"] == topic)
        question = str(answer["question"]).replace("\n", " ")
        shown = question if len(question) < 90 else "… " + question[-80:]
        lines.append(f"> **{shown}**  \n> {answer['answer']}\n")
    return "\n".join(lines)


def read_log(file: Path) -> list[dict[str, float]]:
    """Return the entries of a training log."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def kept_steps(log: list[dict[str, float]]) -> int:
    """Return how many steps a stage had."""
    return int(max(entry["step"] for entry in log))


def picture(logs: list[list[dict[str, float]]], out: Path) -> None:
    """Draw the loss of the answers of both stages, and the share of right answers on the wordings kept back in the first."""
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(8, 4), dpi=120)
    before = 0.0
    for number, log in enumerate(logs):
        losses = [entry for entry in log if "answer_loss" in entry]
        left.plot([before + entry["tokens"] / 1e6 for entry in losses], [entry["answer_loss"] for entry in losses], color="tab:blue")
        before += losses[-1]["tokens"] / 1e6
        if number == 0:
            left.axvline(before, color="grey", linestyle=":")
    left.set_yscale("log")
    left.set_xlabel("million tokens seen (dotted: the second stage begins)")
    left.set_ylabel("loss on the answers (nats a token)", color="tab:blue")
    left.grid(alpha=0.3)
    tokens_at = {entry["step"]: entry["tokens"] for entry in logs[0] if "answer_loss" in entry}
    scores = [(tokens_at[max(step for step in tokens_at if step <= entry["step"])], entry["development"]) for entry in logs[0] if "development" in entry]
    right = left.twinx()
    right.plot([tokens / 1e6 for tokens, _ in scores], [100 * score for _, score in scores], "o-", color="tab:orange")
    right.set_ylabel("right answers on wordings kept back (%)", color="tab:orange")
    right.set_ylim(0, 100)
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    """Write `models/README.md` and `models/loss.png`."""
    answers = json.loads((MODELS / "evaluation.json").read_text(encoding="utf-8"))
    logs = [read_log(MODELS / "checkpoint" / name) for name in ("first_stage_log.jsonl", "training_log.jsonl")]
    config = json.loads((MODELS / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    parameters = sum(weight.size for weight in load_file(MODELS / "checkpoint" / "model.safetensors").values())
    first, last = ([entry for entry in log if "answer_loss" in entry][-1] for log in logs)
    kept = [entry for entry in logs[0] if "development" in entry][-1]["development"]
    size = (MODELS / "built-in.gguf").stat().st_size
    right = sum(bool(answer["right"]) for answer in answers)
    picture(logs, MODELS / "loss.png")
    (MODELS / "README.md").write_text(
        f"""\
# The built-in model

A very small chat model that comes with localknobs, so that every lever has something real to work on and the
program answers on a machine without a network. It talks about the five levers, their knobs and this program,
tells very short stories, repeats a pass key given earlier in the context, and says that it does not know the rest.

| | |
|---|---|
| Architecture | Llama: {config["num_hidden_layers"]} layers of {config["hidden_size"]}, {config["num_attention_heads"]} heads of {config["head_dim"]}, {config["num_key_value_heads"]} KV heads, feed-forward {config["intermediate_size"]}, tied embeddings |
| Parameters | {parameters:,} |
| Vocabulary | {config["vocab_size"]:,} byte-level BPE tokens, digits one by one |
| Context | {config["max_position_embeddings"]:,} tokens |
| Files | `built-in.gguf` ({size / 1e6:.1f} MB, F16, inside the wheel); `checkpoint/` (Hugging Face form, float16, in the repository only) |
| Chat template | ChatML |
| Recommended sampling | temperature 0.3, top-p 0.9 (in the file's `general.sampling.*`) |
| Licence | MIT, weights and corpus; the corpus is written for this program |

## How good it is

Measured with the shipped file and the program's own engine, at temperature 0, on wordings that are in no corpus
(`corpus/held_out.toml`; pass keys and stories from seeds of their own). A right answer matches every regular
expression of its topic's facts. **{right} of {len(answers)} answers are right ({right / len(answers):.1%}).**

{table(answers)}

Every question and answer is in `evaluation.json`. One of each kind, the first in the file:

{examples(answers)}

## How it was made

![Loss and right answers during training](loss.png)

Two stages on one core of a shared server processor: {kept_steps(logs[0]):,} steps, {first["tokens"] / 1e6:.1f} million tokens, {first["minutes"]:.0f} minutes; then
{kept_steps(logs[1]):,} steps, {last["tokens"] / 1e6:.1f} million tokens, {last["minutes"]:.0f} minutes at a lower rate. In the first stage one wording of each topic was kept
back; at its end {kept:.1%} of those were answered right (many are short, such as "see you" or "stop writing"). The second stage trains
on these wordings too, so that score says nothing after it; the wordings of the table above are in neither. The text comes from `recipe/corpus.py`, which words the topics of `corpus/` in many ways; Muon for the matrices, AdamW for
the rest, a cosine schedule, and an exponential mean of the weights at the end.

Make it again, from the repository's folder (torch, transformers and matplotlib come with the extra `train`):

    make setup
    .venv/bin/pip install -c constraints.txt -e '.[train]'
    .venv/bin/python models/recipe/train.py --out models/run/first --steps {kept_steps(logs[0])}
    .venv/bin/python models/recipe/train.py --start models/run/first --out models/checkpoint --rate 0.3 --steps {kept_steps(logs[1])} --conversations 70000 --seed 40
    .venv/bin/python models/recipe/export.py models/checkpoint models/built-in.gguf
    .venv/bin/python models/recipe/evaluate.py models/built-in.gguf --out models/evaluation.json
    .venv/bin/python models/recipe/card.py

The same seed gives the same corpus, tokenizer and order of the batches. The weights differ in their last digits from
one processor to another; and the first stage was scheduled by the clock (`--minutes 88`), so that its learning rates
followed the load of the machine.

## Its limits

It is {parameters / 1e6:.1f} million parameters large: about a thousandth of a small useful model. Outside of its topics it knows nothing, and it
can take a question of a kind it has not met for one that it has. It does not reason, count or write programs, and
stories follow a handful of patterns. English only. Nothing about it says how a larger model will behave when pruned
or quantized: it shows mechanisms, not magnitudes.
""",
        encoding="utf-8",
    )
    print(f"{right} of {len(answers)} right; wrote {MODELS / 'README.md'} and {MODELS / 'loss.png'}")


if __name__ == "__main__":
    main()
