"""The training loop, in the training process: steps, looks at held-out and general text, states to go on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from localknobs.convert.child import Say
from localknobs.errors import BadFile, LocalknobsError
from localknobs.paths import written_whole
from localknobs.tune.encode import Encoded
from localknobs.tune.losses import AnyRow, endless, mean_loss, rate_at, summed_loss
from localknobs.tune.ranks import Ranks
from localknobs.tune.rehearsal import OldRow, noted, old_beside, summed_divergence
from localknobs.tune.trainee import answer, set_trained_state, trained_state, trained_values

SAVE_S, SAVE_SHARE = 60.0, 20
"""Longest time between two savings of the state, and how many times its own it is at least: large models take long."""


@dataclass(slots=True)
class Progress:
    """How far a training is, and how well it went.

    Args:
        step: Steps done.
        best: Lowest held-out loss, and `best_step` where it was.
        looks_since_best: Looks since then.
        seconds: Time spent, in earlier runs too.
        first: What was measured before the first step.
        losses: Every step's loss.
    """

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    looks_since_best: int = 0
    seconds: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Material:
    """What a training reads.

    Args:
        learn, held_out, general: To learn from, held out, and text of another kind.
        rehearsal: Old rows, at which it is held to what the base says; none for no rehearsal.
        questions: Held-out ones: tokens, most tokens of an answer, and the one that is right.
        samples: Fixed prompts: text, tokens, and most tokens of an answer.
    """

    learn: list[Encoded]
    held_out: list[Encoded]
    general: list[Encoded]
    questions: list[tuple[list[int], int, str]]
    samples: list[tuple[str, list[int], int]]
    rehearsal: list[Encoded] = field(default_factory=list)


class Training:
    """One training.

    Args:
        order: Numbers of the training: `rate`, `steps`, `batch`, `at_once`, `pack`, `accumulation`, `warmup`,
            `schedule`, `decay`, `rehearsal_share`, `rehearsal_weight`, `patience`, `look_every`, `sample_every`,
            `seed`, `state` (a file), `fingerprint`, `resume`.
        trainee: The base with its adapter, as yet untrained: old rows are noted with it.
        material: What it reads.
        tokenizer: Of the base.
        say: Tells the parent.
        stopping: Whether the parent asked to stop.
        ranks: The processes that train together.
    """

    def __init__(
        self, order: Mapping[str, Any], trainee: Any, material: Material, tokenizer: Any, say: Say,
        stopping: Callable[[], bool], ranks: Ranks | None = None,
    ) -> None:  # fmt: skip
        import torch

        self._order, self._trainee, self._material = order, trainee, material
        self._tokenizer, self._say, self._stopping = tokenizer, say, stopping
        self._ranks = ranks or Ranks()
        self._device = str(next(trainee.parameters()).device)
        self._trained = [value for value in trainee.parameters() if value.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=order["rate"], betas=(0.9, 0.999), weight_decay=order["decay"]
        )
        self._best_state = trained_state(trainee)
        self._save_took = 0.0
        self._old: list[OldRow] = []
        self.progress = Progress()

    def run(self) -> bool:
        """Train; return whether it came to its end, and was not stopped by the parent."""
        order = self._order
        state = self._read_state() if order["resume"] else None  # a wrong one is told before anything takes time
        if not self._note_old_rows():
            return False
        if state:
            self._put_back(state)
        progress = self.progress
        self._say({"begun": progress.step, "steps": order["steps"]})
        if not progress.first:
            progress.first = self._look()
            progress.first["right"] = self._right()
            self._say({"before": progress.first})
            self.sample()
        began = saved_at = monotonic()
        earlier = progress.seconds
        done = progress.step * order["accumulation"]
        batches = endless(self._material.learn, order["batch"], order["seed"], done)
        beside = old_beside(order["batch"], order["rehearsal_share"])
        old_batches = endless(self._old, beside, order["seed"], done) if self._old else None
        while progress.step < order["steps"]:
            said = self._step(batches, old_batches)
            progress.seconds = earlier + monotonic() - began
            self._say({"step": progress.step, **said})
            last = progress.step == order["steps"]
            if progress.step % order["sample_every"] == 0 and not last:  # at the end the adapter that is kept answers
                self.sample()
            if progress.step % order["look_every"] == 0 or last:
                enough = self._take_look()
                self._save()
                saved_at = monotonic()
                if enough:
                    self._say({"enough": progress.best_step})
                    break
            stop = self._ranks.any(self._stopping())
            if stop or monotonic() - saved_at > max(SAVE_S, SAVE_SHARE * self._save_took):
                self._save()
                saved_at = monotonic()
            if stop:
                return False
        set_trained_state(self._trainee, self._best_state)
        return True

    def measure(self) -> dict[str, float]:
        """Return what the adapter that is kept reaches."""
        return {**self._look(), "right": self._right()}

    def _note_old_rows(self) -> bool:
        """Note what the base says at old rows, before anything is trained or put back; False when it was stopped."""
        if not self._material.rehearsal:
            return True
        self._say({"noting": len(self._material.rehearsal)})
        found = noted(
            self._trainee, self._material.rehearsal, self._order["at_once"], self._device, self._say,
            lambda: self._ranks.any(self._stopping()),
        )  # fmt: skip
        self._old = found or []
        return found is not None

    def _step(self, batches: Iterator[list[Encoded]], old_batches: Iterator[list[OldRow]] | None) -> dict[str, float]:
        import torch

        order, progress = self._order, self.progress
        began = monotonic()
        rate = order["rate"] * rate_at(progress.step, order["steps"], order["warmup"], order["schedule"])
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        parts = [next(batches) for _ in range(order["accumulation"])]
        learned = max(1, sum(sum(example.learned[1:]) for part in parts for example in part))
        total, tokens = 0.0, 0
        for part in self._ranks.share(list(self._pieces(parts))):
            loss, _, _ = summed_loss(self._trainee, part, self._device, order["pack"])
            (loss / learned).backward()
            total += float(loss.detach())
            tokens += sum(len(example.tokens) for example in part)
        drift, read = self._hold(old_batches) if old_batches else ({}, 0)
        mean = self._ranks.added(total) / learned
        if not math.isfinite(mean) and not progress.step:
            raise LocalknobsError(
                "The loss is no number at the first step", "The base itself is damaged, or --lora-alpha far too high."
            )
        if not math.isfinite(mean):
            raise LocalknobsError(
                f"Divergence: the loss is no number any more at step {progress.step + 1:,} (learning rate {rate:.2g})",
                "Give a lower one, such as a third (--lr), and --restart.",
            )
        self._ranks.add_gradients(self._trained)
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.losses.append(mean)
        took = round(monotonic() - began, 6)
        return {"loss": mean, **drift, "rate": rate, "tokens": tokens + read, "took": took}

    def _hold(self, old_batches: Iterator[list[OldRow]]) -> tuple[dict[str, float], int]:
        """Add the pull back to the base at old rows to the gradients; return their divergence, and the tokens read."""
        parts = [next(old_batches) for _ in range(self._order["accumulation"])]
        places = sum(len(row.rest) for part in parts for row in part)
        total, read = 0.0, 0
        for part in self._ranks.share(list(self._pieces(parts))):
            divergence = summed_divergence(self._trainee, part, self._device)
            (self._order["rehearsal_weight"] * divergence / places).backward()
            total += float(divergence.detach())
            read += sum(len(row.tokens) for row in part)
        return {"drift": self._ranks.added(total) / places}, read

    def _pieces(self, batches: Sequence[Sequence[AnyRow]]) -> Iterator[Sequence[AnyRow]]:
        """Cut batches into what is computed at once: the order of the data must not depend on the memory there is."""
        for batch in batches:
            size = min(self._order["at_once"], -(-len(batch) // self._ranks.count))
            for at in range(0, len(batch), size):
                yield batch[at : at + size]

    def _look(self) -> dict[str, float]:
        found: dict[str, float] = {}
        if self._material.held_out:
            loss, right = mean_loss(self._trainee, self._material.held_out, self._order["at_once"], self._device)
            found.update(held_out=loss, next_token=right)
        if self._material.general:
            found["general"] = mean_loss(
                self._trainee, self._material.general, self._order["at_once"], self._device
            )[0]  # fmt: skip
        return found

    def _take_look(self) -> bool:
        """Measure, keep the best adapter, and return whether it is time to stop."""
        progress, found = self.progress, self._look()
        if found.get("held_out", -math.inf) < progress.best:
            progress.best, progress.best_step, progress.looks_since_best = (
                found.get("held_out", math.inf), progress.step, 0
            )  # fmt: skip
            self._best_state = trained_state(self._trainee)
        else:
            progress.looks_since_best += 1
        self._say({"look": found, "at": progress.step})
        enough = bool(self._material.held_out) and 0 < self._order["patience"] <= progress.looks_since_best
        return self._ranks.any(enough)

    def sample(self) -> list[str]:
        """Answer the fixed prompts, tell of it, and return the answers."""
        samples = self._material.samples
        answers = [self._written(tokens, room) for _, tokens, room in samples]
        if samples:
            told = [[prompt, text] for (prompt, _, _), text in zip(samples, answers, strict=True)]
            self._say({"samples": told, "at": self.progress.step})
        return answers

    def _written(self, prompt: list[int], room: int) -> str:
        tokens = answer(self._trainee, prompt, room, self._tokenizer.eos_token_id)
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()

    def _right(self) -> float:
        """Return the share of held-out questions that are answered word for word."""
        asked = self._material.questions
        hits = 0
        for prompt, room, right in asked:
            hits += self._written(prompt, room) == right.strip()
            self._say({"asked": 1})
        return hits / len(asked) if asked else math.nan

    def _save(self) -> None:
        import torch

        if self._ranks.rank:
            return
        began = monotonic()
        state = {
            "fingerprint": self._order["fingerprint"],
            "trained": trained_values(self._trainee),
            "best_state": self._best_state,
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "card_random": torch.cuda.get_rng_state_all() if self._device.startswith("cuda") else [],
            "progress": asdict(self.progress),
        }
        with written_whole(Path(self._order["state"])) as beside:
            torch.save(state, beside)
        self._save_took = monotonic() - began
        self._say({"saved": self.progress.step})

    def _read_state(self) -> dict[str, Any]:
        import torch

        try:
            state: dict[str, Any] = torch.load(self._order["state"], map_location="cpu", weights_only=True)
            same = state["fingerprint"] == self._order["fingerprint"]
        except Exception as error:  # torch raises all kinds for a damaged file
            raise BadFile(
                f"{self._order['state']} is damaged ({error})", "Begin anew with --restart."
            ) from None  # fmt: skip
        if not same:
            raise BadFile(
                "A stopped training lies beside the output, of other data, base or knobs",
                "Begin anew with --restart, or name another -o.",
            )
        return state

    def _put_back(self, state: Mapping[str, Any]) -> None:
        import torch

        set_trained_state(self._trainee, state["trained"])
        self._best_state = state["best_state"]
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["card_random"]:
            torch.cuda.set_rng_state_all(state["card_random"])
        self.progress = Progress(**state["progress"])
