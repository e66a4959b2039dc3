"""The proof that what was trained is the same everywhere: in torch by peft, as a GGUF adapter, merged into the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.quant_plan import TypeChoice
from localknobs.convert.quantize import QuantizeConfig, plan_quantize, quantize
from localknobs.convert.to_gguf import ConvertConfig, convert
from localknobs.convert.verify import VerifyConfig, plan_verify, verify
from localknobs.errors import BadFile
from localknobs.gguf_info import read_header
from localknobs.hardware import available_memory_bytes
from localknobs.jobs import Job, passing_folder, without_files

LEAST_SAME = 0.98
"""Share of positions whose top token must be the same: 16-bit files round what torch computes in float32."""
LEAST_SAME_QUANTIZED = 0.9
"""The same over quantized weights, where llama.cpp rounds the other factor of each product too."""
_LARGEST_WIDENED = 8 * 2**30
"""Bytes of a base in float32 up to which a file is made of it to compare with."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How far other forms agree with what was trained, computed in torch.

    Args:
        gguf_adapter: Share of positions with the same top token, of the GGUF adapter at scale 1 on the base's file;
            None where there is no such adapter.
        merged: The same of the merged file, or of the whole model's file; None where there is none.
        places: Positions that were compared.
        least: What each must reach.
    """

    gguf_adapter: float | None
    merged: float | None
    places: int
    least: float = LEAST_SAME

    @property
    def passed(self) -> bool:
        """Whether all forms agree."""
        return all(share >= self.least for share in (self.merged, self.gguf_adapter) if share is not None)


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
        merged, places = yield from _converted(base, choice, folder / "merged.gguf", (choice,), (), threads)
        beside = None
        if gguf:
            beside, places = yield from _converted(base, choice, folder / "base.gguf", (), ((gguf, 1.0),), threads)
    return Proof(beside, merged, places)


def prove_over_file(file: Path, checkpoint: Path, adapter: Path, gguf: Path, threads: int) -> Job[Proof]:
    """Compare an adapter on the bytes of a GGUF file in torch with the GGUF adapter on the same weights in llama.cpp.

    Over quantized weights llama.cpp rounds the other factor of each product to 8 bits, which torch does not. So the
    file is compared as float32, the same numbers, which passes; only one too large for that is compared as it is.

    Args:
        file: The GGUF file.
        checkpoint: Folder with its config and tokenizer.
        adapter: Folder of the adapter.
        gguf: The adapter as GGUF.
        threads: 0 for all physical cores.
    """

    def compared(model: Path) -> Job[tuple[float, int]]:
        return _same_top(
            VerifyConfig(
                checkpoint, model, threads=threads, loras=(LoraChoice(adapter, 1.0),), adapters=((gguf, 1.0),),
                weights=file,
            )
        )  # fmt: skip

    header = read_header(file)
    if header.shards > 1 or 4 * header.parameters > min(_LARGEST_WIDENED, available_memory_bytes() // 2):
        share, places = yield from compared(file)
        return Proof(share, None, places, LEAST_SAME_QUANTIZED)
    with passing_folder(adapter.with_name(f"{adapter.name}.proof")) as folder:
        wide = folder / "base-F32.gguf"
        widening = QuantizeConfig(
            source=file, outputs=(("F32", wide),), choice=TypeChoice(allow_requantize=True), threads=threads
        )
        yield from without_files(quantize(plan_quantize(widening)))
        share, places = yield from compared(wide)
    return Proof(share, None, places)


def prove_model(model: Path, gguf: Path, threads: int) -> Job[Proof]:
    """Compare a whole model with its GGUF file.

    Args:
        model: Folder of the checkpoint.
        gguf: The file made of it.
        threads: As of `prove`.
    """
    share, places = yield from _same_top(VerifyConfig(model, gguf, threads=threads))
    return Proof(None, share, places)


def _converted(
    base: Path, choice: LoraChoice, file: Path, merged: tuple[LoraChoice, ...],
    beside: tuple[tuple[Path, float], ...], threads: int,
) -> Job[tuple[float, int]]:  # fmt: skip
    """Convert the base, with or without the adapter, and compare it with peft; return the share and the positions."""
    yield from without_files(convert(ConvertConfig(base, file, loras=merged, check_tokens=False)))
    found = yield from _same_top(VerifyConfig(base, file, threads=threads, loras=(choice,), adapters=beside))
    file.unlink()
    return found


def _same_top(config: VerifyConfig) -> Job[tuple[float, int]]:
    """Return the share of positions with the same top token, and the positions."""
    verdict = yield from verify(plan_verify(config))
    if verdict.distance is None or not verdict.distance.places:
        raise BadFile("The logits could not be compared", "`localknobs verify` tells more.")
    return verdict.distance.top_share, verdict.distance.places
