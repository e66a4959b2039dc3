"""What a quantization will do, decided and checked before anything is written: types, sizes to the byte, refusals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localknobs.convert.ggml import FLOAT_TYPES, NEEDS_IMATRIX, Floats, bits, block_size, row_bytes
from localknobs.convert.gguf_header import (
    DEFAULT_ALIGNMENT,
    StoredTensor,
    header_bytes,
    number_key,
    padded,
    replaced,
    text_key,
)
from localknobs.convert.imatrix_file import Imatrix
from localknobs.convert.quant_source import Source, SourceTensor
from localknobs.convert.quant_types import (
    FILE_TYPE_NUMBERS,
    TENSOR_TYPES,
    ChosenTypes,
    TypeRequest,
    check_pattern,
    choose_types,
)
from localknobs.errors import BadFile, BadValue, Unsupported

Pairs = tuple[tuple[str, str], ...]
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION of ggml.h
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_OUTPUT = "output.weight"
# Types whose result is garbage without an importance matrix; llama-quant.cpp refuses them.
_GARBAGE_WITHOUT = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})
# What llama.cpp uses where rows do not divide by 256 (llama-quant.cpp, tensor_type_fallback).
_NARROWER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeChoice:
    """How the types of the tensors are to be chosen.

    Args:
        tensor_types: llama-quantize's `--tensor-type`: a pattern searched in the name, and a type.
        keep: Least types: tensors that match get no fewer bits than this; nothing else changes.
        sensitive_high: Keep embeddings and output at least Q8_0, first and last layer at least Q6_K.
        output_type: Type of `output.weight`.
        embedding_type: Type of the token embeddings.
        pure: No mixture: every matrix gets the same type.
        allow_requantize: Take a source that is quantized already.
    """

    tensor_types: Pairs = ()
    keep: Pairs = ()
    sensitive_high: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    allow_requantize: bool = False


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """What becomes of one tensor.

    Args:
        source: What is read.
        type_name: What is written.
        size_bytes: Bytes of it, without padding.
        importance: Whether the importance matrix is used for it.
    """

    source: SourceTensor
    type_name: str
    size_bytes: int
    importance: bool = False

    @property
    def is_copied(self) -> bool:
        """Whether its bytes are taken over as they are."""
        return self.type_name == self.source.type_name


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file to be written.

    Args:
        file_type: Its name, such as `Q4_K_M`.
        header: The whole header.
        tensors: In file order.
        alignment: Of the tensors.
        notes: What the user should know.
    """

    file_type: str
    header: bytes
    tensors: tuple[PlannedTensor, ...]
    alignment: int
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(padded(tensor.size_bytes, self.alignment) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Mean bits a value takes."""
        values = sum(tensor.source.rows * tensor.source.columns for tensor in self.tensors)
        return 8 * sum(tensor.size_bytes for tensor in self.tensors) / values if values else 0.0

    @property
    def type_counts(self) -> dict[str, int]:
        """Type to how many tensors get it, the most frequent first."""
        return dict(Counter(tensor.type_name for tensor in self.tensors).most_common())


def _least_types(choice: TypeChoice, block_count: int) -> Pairs:
    if not choice.sensitive_high:
        return choice.keep
    ends = "|".join(str(layer) for layer in sorted({0, max(0, block_count - 1)}))
    high = ((r"^(token_embd|output)\.weight$", "Q8_0"), (rf"^blk\.({ends})\..*\.weight$", "Q6_K"))
    return (*choice.keep, *high)


def plan_files(
    source: Source, file_types: Sequence[str], choice: TypeChoice, imatrix: Imatrix | None, imatrix_name: str = ""
) -> list[FilePlan]:
    """Plan one file a type.

    Args:
        source: The model.
        file_types: Names such as `Q4_K_M`.
        choice: What shapes the types.
        imatrix: Importance, if there is some.
        imatrix_name: Its file's name, which is noted in the header.

    Raises:
        BadValue: an option that these types cannot take.
        BadFile: the importance matrix is of another model.
        Unsupported: a type that needs an importance matrix without one, or a quantized source.
    """
    _check_options(source, file_types, choice)
    if imatrix:
        _check_importance(source, imatrix)
    requests = [
        TypeRequest(
            name, choice.tensor_types, choice.output_type, choice.embedding_type, choice.pure, imatrix is not None
        )
        for name in file_types
    ]
    with source.header_file() as header:
        chosen = choose_types(header, requests)
    return [
        _file_plan(source, name, types, choice, imatrix, imatrix_name)
        for name, types in zip(file_types, chosen, strict=True)
    ]


def importance_of(imatrix: Imatrix) -> Mapping[str, Floats]:
    """Return for each tensor the mean squares that the quantizers weigh errors with."""
    return {name: entry.means() for name, entry in imatrix.entries.items()}


def _check_options(source: Source, file_types: Sequence[str], choice: TypeChoice) -> None:
    for name in file_types:
        if name in FLOAT_TYPES and (choice.tensor_types or choice.keep or choice.sensitive_high):
            raise BadValue(
                f"{name} takes no types of single tensors: llama.cpp does not look at them there",
                "Choose a quantized type, or leave --tensor-type, --keep and --preset away.",
            )
    for pattern, _ in choice.keep:
        check_pattern(pattern)
        if not any(re.search(pattern, tensor.name) for tensor in source.tensors):
            raise BadValue(f"No tensor's name matches {pattern}", "`localknobs show MODEL --tensors` lists them.")


def _file_plan(
    source: Source, file_type: str, chosen: ChosenTypes, choice: TypeChoice, imatrix: Imatrix | None, imatrix_name: str
) -> FilePlan:
    tensors = {tensor.name: tensor for tensor in source.tensors}
    if set(tensors) != set(chosen.types):
        lost = sorted(set(tensors) ^ set(chosen.types))[0]
        raise BadFile(f"llama.cpp does not see the same tensors in this model: {lost}", "Report this as a bug.")
    planned, least_types = [], _least_types(choice, source.block_count)
    for name, type_name in chosen.types.items():
        type_name = _kept(tensors[name], type_name, least_types)
        importance = _check_tensor(tensors[name], type_name, file_type, choice, imatrix)
        size = tensors[name].rows * row_bytes(type_name, tensors[name].columns)
        planned.append(PlannedTensor(tensors[name], type_name, size, importance))
    new = [number_key("general.quantization_version", QUANTIZATION_VERSION)]
    new.append(number_key("general.file_type", FILE_TYPE_NUMBERS[file_type]))
    if imatrix:
        new.append(text_key("quantize.imatrix.file", imatrix_name))
        if imatrix.datasets:
            new.append(text_key("quantize.imatrix.dataset", imatrix.datasets[0]))
        new.append(number_key("quantize.imatrix.entries_count", len(imatrix.entries)))
        if imatrix.chunk_count:
            new.append(number_key("quantize.imatrix.chunks_count", imatrix.chunk_count))
    keys = replaced(source.keys, new, _SPLIT_KEYS)
    alignment = next(
        (int.from_bytes(key.data[-4:], "little") for key in keys if key.name == "general.alignment"), DEFAULT_ALIGNMENT
    )
    stored = [StoredTensor(each.source.name, each.source.shape, each.type_name, each.size_bytes) for each in planned]
    header = header_bytes(keys, stored, alignment)
    return FilePlan(file_type, header, tuple(planned), alignment, tuple(_notes(chosen, planned, choice, imatrix)))


def _check_importance(source: Source, imatrix: Imatrix) -> None:
    for tensor in source.tensors:
        entry = imatrix.entries.get(tensor.name)
        # llama.cpp passes over those of the embeddings, which are looked up and not multiplied.
        if entry and tensor.name not in _EMBEDDINGS and entry.sums.size != _importance_size(tensor):
            raise BadFile(
                f"The importance matrix is of another model: it has {entry.sums.size:,} columns for {tensor.name}, "
                f"which has {_importance_size(tensor):,}",
                "Make one of this model: localknobs imatrix MODEL -o imatrix.gguf",
            )


def _importance_size(tensor: SourceTensor) -> int:
    return tensor.columns * (tensor.shape[2] if len(tensor.shape) > 2 else 1)


def _kept(tensor: SourceTensor, type_name: str, keep: Pairs) -> str:
    """Return the type a tensor gets under the least types; the first pattern that fits counts."""
    least = next((least for pattern, least in keep if re.search(pattern, tensor.name)), None)
    if least is None or type_name == tensor.type_name or bits(least) <= bits(type_name):
        return type_name
    if tensor.columns % block_size(least):
        least = _NARROWER.get(least, "IQ4_NL")
        least = least if tensor.columns % block_size(least) == 0 else "F16"
    if bits(least) >= bits(tensor.type_name):
        return tensor.type_name  # it has no more than this
    return least if bits(least) > bits(type_name) else type_name


def _check_tensor(
    tensor: SourceTensor, type_name: str, file_type: str, choice: TypeChoice, imatrix: Imatrix | None
) -> bool:
    """Refuse what cannot be done with a tensor; return whether the importance matrix is used for it."""
    if type_name == tensor.type_name:
        return False
    if tensor.type_name not in FLOAT_TYPES:
        if tensor.type_name not in TENSOR_TYPES:
            raise Unsupported(f"{tensor.where}: {tensor.name} is {tensor.type_name}", "Begin from a float model.")
        if not choice.allow_requantize:
            raise Unsupported(
                f"{tensor.where} is quantized already ({tensor.name} is {tensor.type_name})",
                "Begin from a float model (BF16, F16), or lose quality twice with --allow-requantize.",
            )
    is_edge = tensor.name in (*_EMBEDDINGS, _OUTPUT)
    entry = imatrix.entries.get(tensor.name) if imatrix else None
    fits = entry is not None and entry.sums.size == _importance_size(tensor)
    garbage = type_name in _GARBAGE_WITHOUT or (type_name == "Q2_K" and file_type == "Q2_K_S")
    if not fits and ((garbage and not is_edge) or type_name in NEEDS_IMATRIX):
        raise Unsupported(
            f"{file_type} needs importance for every tensor, and the matrix has none for {tensor.name}"
            if imatrix
            else f"{file_type} needs an importance matrix: {tensor.name} would become {type_name}",
            "Make one: localknobs imatrix MODEL -o imatrix.gguf, then give --imatrix imatrix.gguf",
        )
    return fits


def _notes(
    chosen: ChosenTypes, planned: Sequence[PlannedTensor], choice: TypeChoice, imatrix: Imatrix | None
) -> list[str]:
    notes = []
    for (columns, wanted, used), count in Counter(chosen.fallbacks.values()).items():
        tensors = "1 tensor has" if count == 1 else f"{count} tensors have"
        notes.append(f"{tensors} rows of {columns:,} values, which {wanted} cannot hold: {used} is used instead.")
    for pattern, _ in choice.tensor_types:
        if not any(re.search(pattern, name) for name in chosen.types):
            notes.append(f"No tensor's name matches {pattern}.")
    if imatrix:
        without = [
            each.source.name
            for each in planned
            if not each.is_copied and not each.importance and each.source.name not in (*_EMBEDDINGS, _OUTPUT)
        ]
        if without:
            notes.append(f"The importance matrix has nothing of {len(without)} tensors, the first {without[0]}.")
    return notes
