"""The proof that one adapter is the same everywhere: in torch by peft, as a GGUF adapter, merged into the file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.to_gguf import ConvertConfig, convert
from localknobs.convert.verify import VerifyConfig, plan_verify, verify
from localknobs.errors import BadFile
from localknobs.jobs import Job, Wrote, passing_folder

LEAST_SAME = 0.98
"""Share of positions whose top token must be the same: 16-bit files round what torch computes in float32."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How far two forms agree with peft in torch.

    Args:
        gguf_adapter: Share of positions with the same top token, of the GGUF adapter at scale 1 on the base's file;
            None where there is no such adapter.
        merged: The same of the merged file.
        places: Positions that were compared.
    """

    gguf_adapter: float | None
    merged: float
    places: int

    @property
    def passed(self) -> bool:
        """Whether all forms agree."""
        return min(self.merged, 1.0 if self.gguf_adapter is None else self.gguf_adapter) >= LEAST_SAME


def prove(base: Path, adapter: Path, gguf: Path | None, threads: int) -> Job[Proof]:
    """Make the base's file and the merged one, compare both with torch, and remove them again.

    Args:
        base: Folder of the checkpoint.
        adapter: Folder of the adapter.
        gguf: The adapter as GGUF.
        threads: 0 for all physical cores.

    Raises:
        NotEnough: memory or disk does not suffice.
        Unsupported: the base cannot be converted.
    """
    choice = LoraChoice(adapter, 1.0)
    with passing_folder(adapter.with_name(f"{adapter.name}.proof")) as folder:
        merged, places = yield from _same_top(base, choice, folder / "merged.gguf", (choice,), (), threads)
        beside = None
        if gguf:
            beside, places = yield from _same_top(base, choice, folder / "base.gguf", (), ((gguf, 1.0),), threads)
    return Proof(beside, merged, places)


def _same_top(
    base: Path, choice: LoraChoice, file: Path, merged: tuple[LoraChoice, ...],
    beside: tuple[tuple[Path, float], ...], threads: int,
) -> Job[tuple[float, int]]:  # fmt: skip
    """Convert the base, with or without the adapter, and compare it with peft; return the share and the positions."""
    with contextlib.closing(convert(ConvertConfig(base, file, loras=merged, check_tokens=False))) as job:
        yield from (event for event in job if not isinstance(event, Wrote))  # the files pass
    verdict = yield from verify(
        plan_verify(VerifyConfig(base, file, threads=threads, loras=(choice,), adapters=beside))
    )  # fmt: skip
    file.unlink()
    if verdict.distance is None or not verdict.distance.places:
        raise BadFile("The adapter's logits could not be compared", "`localknobs verify --lora` tells more.")
    return verdict.distance.top_share, verdict.distance.places
