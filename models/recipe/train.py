"""Train the built-in model: `python models/recipe/train.py --out models/checkpoint --minutes 60`.

Writes a Hugging Face checkpoint (float16) with its tokenizer, and a log of losses as JSON lines.
Runs on a CPU or a CUDA device. An interrupted run goes on with `--resume`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import re
import shutil
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from corpus import read_topics
from data import CONTEXT, batches_of, rows_of
from tokenizer import BEGIN, PAD, TURN_BEGIN, TURN_END, VOCABULARY, save, train_tokenizer


def new_model() -> LlamaForCausalLM:
    """Return the untrained model: 5.5 million parameters, heads of 64 so that every quantization type has whole blocks."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
            max_position_embeddings=CONTEXT, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, pad_token_id=1, eos_token_id=3,
        )
    )


def rate_at(progress: float) -> float:
    """Return the share of the top learning rate: a short rise, then a cosine down to 2 percent."""
    if progress < 0.01:
        return progress / 0.01
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def development_score(model: LlamaForCausalLM, tokenizer, device: str, limit: int | None = None) -> tuple[float, list[str]]:
    """Ask each topic's kept wording greedily; return the share of right answers and what went wrong."""
    asked = [(topic, question) for topic in read_topics() for question in topic.development]
    if limit:
        asked = random.Random(0).sample(asked, min(limit, len(asked)))
    model.eval()
    right, wrong = 0, []
    for topic, question in asked:
        prompt = f"{BEGIN}{TURN_BEGIN}user\n{question}{TURN_END}\n{TURN_BEGIN}assistant\n"
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids], device=device)
        with torch.autocast(device, torch.bfloat16):
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=70, do_sample=False, eos_token_id=3, pad_token_id=1)
        answer = tokenizer.decode(out[0, ids.shape[1] :].tolist())
        if all(re.search(fact, answer, re.IGNORECASE) for fact in topic.facts):
            right += 1
        else:
            wrong.append(f"{topic.id} | {question} | {answer}")
    model.train()
    return right / len(asked), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90.0, help="wall-clock length of training")
    parser.add_argument("--steps", type=int, help="length in steps instead, which gives the same model again on the same machine")
    parser.add_argument("--conversations", type=int, default=240_000)
    parser.add_argument("--batch-tokens", type=int, default=6144)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from: the last stage, on all wordings and at a lower rate")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.out.mkdir(parents=True, exist_ok=True)

    # The tokenizer is that of the first seed in every stage.
    tokenizer = Tokenizer.from_file(str(options.start / "tokenizer.json")) if options.start else train_tokenizer(12_000, options.seed)
    save(tokenizer, options.out)
    rows = rows_of(tokenizer, options.conversations, options.seed + 1, all_wordings=bool(options.start))
    total = sum(len(ids) for ids, _ in rows)
    print(f"{len(rows)} conversations, {total} tokens", flush=True)
    batches = batches_of(rows, options.batch_tokens, tokenizer.token_to_id(PAD), options.seed)

    model = (LlamaForCausalLM.from_pretrained(options.start, dtype=torch.float32) if options.start else new_model()).to(device)
    hidden = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    rest = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters on {device}", flush=True)
    optimizers = [
        torch.optim.Muon(hidden, lr=0.012 * options.rate, weight_decay=0.02, momentum=0.95, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=3e-3 * options.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    top_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    average = copy.deepcopy(model)  # exponential mean of the weights: what is kept
    step, spent, state = 0, 0.0, options.out / "training_state.pt"
    if options.resume and state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        for optimizer, content in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(content)
        step, spent = saved["step"], saved["spent"]
    if options.start:
        shutil.copy(options.start / "training_log.jsonl", options.out / "first_stage_log.jsonl")
    log = (options.out / "training_log.jsonl").open("a" if options.resume else "w", encoding="utf-8")
    began, saved_at, seen = time.monotonic() - spent, time.monotonic(), 0
    running = None


    def progress_now() -> float:
        return step / options.steps if options.steps else (time.monotonic() - began) / (options.minutes * 60)

    while (progress := progress_now()) < 1.0:
        ids, weights = (torch.from_numpy(array).to(device) for array in next(batches))
        for optimizer, top in zip(optimizers, top_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = top * rate_at(progress)
        with torch.autocast(device, torch.bfloat16):
            logits = model(ids).logits
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY).float(), ids[:, 1:].reshape(-1), reduction="none")
        weight = weights[:, 1:].reshape(-1)
        loss = (losses * weight).sum() / weight.sum()
        answers = weight == 1.0
        answer_loss = float((losses.detach() * answers).sum() / answers.sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(0.998, step / (step + 20))
        with torch.no_grad():
            for mean, current in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(current, 1 - decay)
        step += 1
        seen += ids.numel()
        running = answer_loss if running is None else 0.98 * running + 0.02 * answer_loss
        if step % 20 == 0:
            elapsed = time.monotonic() - began
            log.write(json.dumps({"step": step, "minutes": round(elapsed / 60, 3), "tokens": seen, "answer_loss": round(running, 4)}) + "\n")
            log.flush()
        if step % 200 == 0:
            print(f"step {step} {progress:.1%} answer loss {running:.4f} {seen / (time.monotonic() - began - spent):.0f} tokens/s", flush=True)
        if time.monotonic() - saved_at > 600:
            score, _ = development_score(average, tokenizer, device, limit=40)
            log.write(json.dumps({"step": step, "development": round(score, 4)}) + "\n")
            print(f"step {step} development {score:.1%}", flush=True)
            torch.save(
                {
                    "model": model.state_dict(), "average": average.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step, "spent": time.monotonic() - began,
                }, state,
            )
            average.save_pretrained(options.out)
            saved_at = time.monotonic()
    score, wrong = development_score(average, tokenizer, device)
    log.write(json.dumps({"step": step, "development": round(score, 4)}) + "\n")
    print(f"done: {step} steps, development {score:.1%}", *wrong, sep="\n", flush=True)
    average.half().save_pretrained(options.out)
    state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
