"""What a conversion will write, worked out from configuration, tokenizer and tensor headers: no weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from localknobs.convert.checkpoint import WeightSource
from localknobs.convert.families import Family, architecture_of, family_for
from localknobs.convert.families.base import OwnFlags
from localknobs.convert.gguf_header import RawKey, StoredTensor, header_bytes, padded
from localknobs.convert.metadata import QUANTIZATION_VERSION, Sheet, add_origin
from localknobs.convert.tensors import PlannedTensor
from localknobs.convert.token_proof import ProofProcesses
from localknobs.convert.vocabulary import Vocabulary, lacks_space_prefix, prove, read_vocabulary
from localknobs.errors import BadFile, BadValue, Unsupported

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32, "MXFP4": 38}
"""Outtype to `general.file_type`; the last one where experts keep their MXFP4 form."""
OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")


@dataclass(frozen=True)
class ConversionPlan:
    """A GGUF file that can be written.

    Args:
        source: Where the weights are read.
        family: The model's family.
        keys: All keys, in order.
        tensors: All tensors, in the order of the file.
        outtype: Type of the tensors that leave a choice: `F32`, `F16`, `BF16`, `Q8_0`.
        before: The keys that come before the vocabulary.
        vocabulary: The vocabulary.
        notes: What the user should know.
    """

    source: WeightSource
    family: Family
    keys: tuple[RawKey, ...]
    tensors: tuple[PlannedTensor, ...]
    outtype: str
    before: Sheet
    vocabulary: Vocabulary
    notes: tuple[str, ...] = ()

    @cached_property
    def header(self) -> bytes:
        """The file's header, padded, after which the tensors follow in order, each padded."""
        stored = [
            StoredTensor(tensor.name, tuple(reversed(tensor.shape)), tensor.type_name, tensor.size_bytes())
            for tensor in self.tensors
        ]
        return header_bytes(self.keys, stored)

    @property
    def size_bytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + sum(padded(tensor.size_bytes()) for tensor in self.tensors)


def reason_for_upstream(source_config: Mapping[str, Any], folder: Path) -> str | None:
    """Return why a checkpoint is none for this program's own converter, None when it is one."""
    architecture = architecture_of(source_config)
    if not architecture:
        return "config.json names no architecture"
    if family_for(source_config) is None:
        return f"the architecture {architecture} is none that localknobs converts itself"
    quantized = (source_config.get("quantization_config") or {}).get("quant_method")
    if quantized and not (quantized == "mxfp4" and architecture == "GptOssForCausalLM"):
        return f"its weights are quantized by {quantized}"
    if "draft_vocab_size" in source_config:
        return "it is a draft model for speculative decoding"
    if (folder / "modules.json").is_file():
        return "it is a model for embeddings"
    if "reranker" in folder.name.lower():
        return "it is a model for ranking"
    return None


def open_family(source: WeightSource) -> Family:
    """Return the family of a checkpoint.

    Raises:
        Unsupported: this program has none for it.
    """
    reason = reason_for_upstream(source.config, source.folder)
    family = family_for(source.config)
    if reason or family is None:
        raise Unsupported(
            f"{source.folder} cannot be converted here: {reason}",
            "llama.cpp's own converter may know it: add --get-converter to download and use that.",
        )
    return family(source)


def plan_conversion(
    source: WeightSource, outtype: str = "auto", name: str | None = None, *, check_tokens: bool = True
) -> ConversionPlan:
    """Work out the file that a checkpoint becomes, and check all that can be checked before it is read.

    Args:
        source: The checkpoint, or one with adapters merged into it.
        outtype: `f32`, `f16`, `bf16`, `q8_0`, or `auto` for the 16-bit type that the checkpoint has.
        name: The model's name, instead of the one that is found.
        check_tokens: Whether to prove that llama.cpp reads text as the tokenizer does.

    Raises:
        Unsupported: a family, a scaling or a tokenizer that llama.cpp or this program does not have.
        BadFile: something is missing, damaged or does not belong together.
    """
    if outtype not in OUTTYPES:
        raise BadValue(f"There is no outtype {outtype!r}", f"One of: {', '.join(OUTTYPES)}.")
    family = open_family(source)
    chosen = outtype.upper() if outtype != "auto" else _type_of_checkpoint(family)
    tensors = family.plan(chosen)
    family.check(tensors)
    keeps_form = any(not tensor.is_float for tensor in tensors)
    file_type = FILE_TYPES["MXFP4" if keeps_form and chosen != "Q8_0" else chosen]
    sheet = sheet_of(family, counts_of(tensors), file_type, name)
    before = sheet.copy()
    vocabulary = open_vocabulary(family)
    vocabulary.add_to(sheet, family.vocabulary_flags(vocabulary))
    notes = notes_about(family, vocabulary)
    keys = tuple(sheet.keys())
    plan = ConversionPlan(source, family, keys, tuple(tensors), chosen, before, vocabulary, notes)
    return proved(plan) if check_tokens else plan


def proved(plan: ConversionPlan, processes: ProofProcesses | None = None) -> ConversionPlan:
    """Prove that llama.cpp reads text as the tokenizer does; return the plan with what that settled.

    Args:
        plan: The plan.
        processes: Those of the proof, where they were started before.

    Raises:
        BadFile: it does not; the message shows the first difference.
    """
    vocabulary, flags = prove_vocabulary(plan.family, plan.vocabulary, plan.before, processes)
    sheet = plan.before.copy()
    vocabulary.add_to(sheet, flags)
    return replace(plan, keys=tuple(sheet.keys()), vocabulary=vocabulary)


def sheet_of(family: Family, counts: tuple[int, int, int, int], file_type: int, name: str | None = None) -> Sheet:
    """Return all keys but those of the vocabulary."""
    sheet = Sheet(family.architecture)
    family.add_early(sheet)
    add_origin(sheet, family.source.folder, counts, name)
    family.add_numbers(sheet, file_type)
    sheet.u32("general.quantization_version", QUANTIZATION_VERSION)
    return sheet


def open_vocabulary(family: Family) -> Vocabulary:
    """Read the vocabulary of a family's model."""
    folder = family.source.folder
    return read_vocabulary(folder, family.vocabulary_size, family.vocabulary_kind, family.pre_tokenizers)


def prove_vocabulary(
    family: Family, vocabulary: Vocabulary, before: Sheet, processes: ProofProcesses | None = None
) -> tuple[Vocabulary, OwnFlags]:
    """Prove a vocabulary; return it with its name settled, and the flags around it.

    Args:
        family: The family.
        vocabulary: As it was read; not changed.
        before: The keys that come before it: llama.cpp goes by architecture and name here and there.
        processes: Those of the proof, where they were started before.

    Raises:
        BadFile: llama.cpp would read text differently.
    """
    flags = family.vocabulary_flags(vocabulary)
    try:
        return prove(vocabulary, before, flags, family.pre_tokenizers, processes), flags
    except BadFile:
        if not lacks_space_prefix(vocabulary):
            raise
        # llama.cpp's converter goes by tokenizer_config.json alone, and tokenizer.json says otherwise.
        flags = {}, {**flags[1], "tokenizer.ggml.add_space_prefix": False}
        return prove(vocabulary, before, flags, family.pre_tokenizers, processes), flags


def notes_about(family: Family, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return what the user should know about a conversion."""
    notes = []
    if vocabulary.tokenizer_file is None:
        notes.append(
            "There is no tokenizer.json to compare llama.cpp's tokens with; tokenizer.model was taken as it is."
        )
    if family.rope.kind == "dynamic":
        trained = family.config.get("max_position_embeddings")
        notes.append(
            f"GGUF has no dynamic scaling of the rotary positions: beyond {trained} tokens, "
            "raise --rope-freq-base when you run the model."
        )
    if vocabulary.special.templates is None:
        notes.append("The checkpoint has no chat template; it may be a model that only continues text.")
    return tuple(notes)


def counts_of(tensors: Sequence[PlannedTensor]) -> tuple[int, int, int, int]:
    """Return parameters: all, those every token uses, those of one expert; and how many experts there are."""
    total = shared = expert = experts = stacks = 0
    for tensor in tensors:
        size = tensor.elements
        total += size
        count = tensor.shape[-2 if ".bias" in tensor.name else -3] if len(tensor.shape) >= 3 else 0
        if "_exps." in tensor.name and count:
            expert += size // count
            experts += count
            stacks += 1
        else:
            shared += size
    return total, shared, expert, experts // stacks if stacks else 0


def _type_of_checkpoint(family: Family) -> str:
    """Return the 16-bit type of the first matrix that has one, as llama.cpp's converter chooses."""
    for name in family.ordered_names():
        spec = family.source.info(name)
        if len(spec.shape) >= 2 and spec.dtype in ("BF16", "F16"):
            return spec.dtype
    return "F16"
