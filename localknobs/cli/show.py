"""`localknobs show MODEL`: what a GGUF file says of itself, read without llama.cpp."""

from __future__ import annotations

import contextlib
import shlex
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localknobs.cli.output import facts, heading, note, print_json, table
from localknobs.engine.adapter_files import direction_layer
from localknobs.engine.cache_layout import cache_bytes, cache_bytes_per_token
from localknobs.engine.settings import LoadSettings
from localknobs.errors import LocalknobsError, NotFound
from localknobs.gguf_info import ArrayInfo, Header, TensorInfo, check_is_model, read_header, shard_paths
from localknobs.knobs import knob
from localknobs.ledger import read_card
from localknobs.library import BUILT_IN, SOURCES, ModelEntry, find_entry, find_model
from localknobs.paths import votes_file
from localknobs.units import count_text, size_text, time_text

if TYPE_CHECKING:
    from localknobs.ab.votes import Tally


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "model", nargs="?", default=BUILT_IN, help="a GGUF file or a name from `localknobs ls` (default: built-in)"
    )
    parser.add_argument("--tensors", action="store_true", help="list the tensors too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


@dataclass(frozen=True, slots=True)
class _File:
    """A model with all the files it is split into.

    Args:
        header: Of the first file, which holds the metadata.
        tensors: Of all files that are there.
        size_bytes: Of all files that are there.
    """

    header: Header
    tensors: tuple[TensorInfo, ...]
    size_bytes: int

    @property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        bits = 8 * sum(tensor.size_bytes for tensor in self.tensors)
        return bits / self.parameters if self.parameters else 0.0


def run(options: Namespace) -> int:
    """Print the file's facts, then its tensors when asked for."""
    path = find_model(options.model)
    header = read_header(path)
    shards = [shard for shard in shard_paths(header) if shard.is_file()]
    others = [read_header(shard) for shard in shards if shard != header.path]
    tensors = (*header.tensors, *(tensor for other in others for tensor in other.tensors))
    file = _File(header, tensors, sum(shard.stat().st_size for shard in shards))
    try:
        if header.kind == "model":
            check_is_model(header)
    except LocalknobsError as error:
        note(str(error))
    entry = _entry(path)
    if options.json:
        places = asdict(entry) if entry else {}
        beside = {name: places.get(name, default) for name, default in _PLACES}
        print_json({**_document(file, options.tensors), **beside})
        return 0
    print(facts([*_facts(file), *(_places(entry) if entry else ())]))
    if sampling := header.sampling:
        print("\n" + heading("recommended sampling (--preset model)"))
        print(facts((f"  {name}", knob(name).show(value)) for name, value in sampling.items()))
    _print_card(header.path)
    _print_votes(header.path)
    if options.tensors:
        rows = [(one.name, _shape(one), one.type_name, size_text(one.size_bytes)) for one in file.tensors]
        print("\n" + table(("TENSOR", "SHAPE", "TYPE", "SIZE"), rows, right=(1, 3)))
    return 0


def _print_card(path: Path) -> None:
    """Print what the ledger knows of a file."""
    try:
        card = read_card(path)
    except NotFound:
        return
    except LocalknobsError as error:
        note(str(error))
        return
    print("\n" + heading("made here (`localknobs redo` makes it again)"))
    print(facts([
        ("  command", shlex.join(["localknobs", card.verb, *card.arguments])), ("  in", card.folder),
        *(("  of", f"{source.path}, {size_text(source.size_bytes)}") for source in card.sources),
        ("  when", f"{card.made}, in {time_text(card.took_s)}"),
        ("  with", ", ".join(f"{name} {number}" for name, number in card.versions.items())),
        *(("  measured", measured_text(one)) for one in card.measurements),
    ]))  # fmt: skip


def _votes(path: Path) -> list[Tally]:
    """Return what votes say of a file against others; of most files there are none, and nothing heavy is imported."""
    if not votes_file().is_file():
        return []
    from localknobs.ab.votes import tallies
    from localknobs.ledger import fingerprint

    return tallies(fingerprint(path))


def _print_votes(path: Path) -> None:
    """Print what votes of the A/B chat say of a file."""
    found = _votes(path)
    if found:
        print("\n" + heading("votes (`localknobs ab`)"))
        lines = []
        for tally in found:
            lines.append((f"  {tally.a.flags or 'as it is'}", f"against {tally.b.label}"))
            lines.append(("", tally.text("this", "that")))
        print(facts(lines))


def measured_text(measurement: Mapping[str, Any]) -> str:
    """Return what was measured on one line: the kind, then its numbers."""
    numbers = [f"{name} {value:.6g}" for name, value in measurement.items() if isinstance(value, float)]
    counts = [f"{name} {value:,}" for name, value in measurement.items() if isinstance(value, int)]
    return f"{measurement.get('kind', '?')}: {', '.join((*numbers, *counts))} ({measurement.get('when', '')})"


_PLACES: tuple[tuple[str, Any], ...] = (("source", ""), ("projector", None), ("aliases", ()), ("also_at", ()))
"""What the library knows and the file does not, with what stands for a file outside of it."""


def _entry(path: Path) -> ModelEntry | None:
    """Return the library's row of a file; None where it lies outside."""
    try:
        return find_entry(str(path))
    except LocalknobsError:
        return None


def _places(entry: ModelEntry) -> Iterator[tuple[str, object]]:
    yield "found in", SOURCES[entry.source].label
    if entry.projector:
        yield "projector", entry.projector
    if entry.aliases:
        yield "also called", ", ".join(entry.aliases)
    for place in entry.also_at:
        yield "also at", place


def _facts(file: _File) -> Iterator[tuple[str, object]]:
    """Yield what is worth a line, label and value."""
    header = file.header
    yield "name", header.name
    yield "file", header.path
    yield "kind", header.kind + (f", split into {header.shards} files" if header.shards > 1 else "")
    if header.architecture:
        yield "architecture", header.architecture
    if description := header.text("general.description"):
        yield "description", description
    yield "licence", _licence(header) or "not stated"
    yield "size", f"{size_text(file.size_bytes)} ({file.size_bytes:,} bytes)"
    if header.kind == "imatrix":
        yield from _imatrix_facts(header)
        return
    yield "parameters", f"{count_text(file.parameters)} ({file.parameters:,})"
    yield "quantization", f"{header.quant}, {file.bits_per_weight:.2f} bits per weight"
    yield "tensor types", _types(file.tensors)
    if header.kind == "adapter":
        yield from _adapter_facts(header)
    elif header.kind == "control vector":
        yield from _control_vector_facts(header)
    elif header.kind == "model":
        yield from _model_facts(header)


def _model_facts(header: Header) -> Iterator[tuple[str, object]]:
    trained, (per_token, whole) = header.context_trained, _cache(header)
    yield "trained context", f"{trained:,} tokens" if trained else "not stated"
    yield "layers", header.number("block_count") or "not stated"
    yield "embedding", header.number("embedding_length") or "not stated"
    yield "attention heads", _span(header.per_layer("attention.head_count"))
    yield "KV heads", _span(header.per_layer("attention.head_count_kv") or header.per_layer("attention.head_count"))
    if feed_forward := header.per_layer("feed_forward_length"):
        yield "feed-forward", _span(feed_forward)
    if experts := header.number("expert_count"):
        yield "experts", f"{experts}, {header.number('expert_used_count')} used for each token"
    if vocabulary := _vocabulary_size(header):
        yield "vocabulary", f"{vocabulary:,} tokens"
    if per_token or whole:
        at_full = f"; {size_text(whole)} at {trained:,} tokens" if trained else ""
        yield "KV cache (f16)", f"{per_token:,} bytes a token{at_full}"
    if window := header.number("attention.sliding_window"):
        yield "sliding window", f"{window:,} tokens on some layers, whose cache grows no further"
    if isinstance(base := header.metadata.get(f"{header.architecture}.rope.freq_base"), float):
        scaling = header.text(f"{header.architecture}.rope.scaling.type")
        yield "RoPE", f"base {base:,.0f}" + (f", {scaling} scaling" if scaling and scaling != "none" else "")
    template = header.chat_template
    yield "chat template", f"yes, {len(template):,} characters" if template else "no"


def _adapter_facts(header: Header) -> Iterator[tuple[str, object]]:
    yield "adapter", header.text("adapter.type") or "not stated"
    if ranks := _ranks(header):
        yield "rank", _span(tuple(ranks))
    alpha = header.metadata.get("adapter.lora.alpha")
    if isinstance(alpha, int | float):
        yield "alpha", f"{alpha:g}" if alpha else "0 (the scale is already in the weights)"
    yield (
        "base model",
        header.text("general.base_model.0.name") or "not stated; it works with the model it was made for",
    )


def _imatrix_facts(header: Header) -> Iterator[tuple[str, object]]:
    yield "tensors covered", sum(tensor.name.endswith(".in_sum2") for tensor in header.tensors)
    for key, label in (("imatrix.chunk_count", "chunks"), ("imatrix.chunk_size", "tokens a chunk")):
        if isinstance(value := header.metadata.get(key), int):
            yield label, f"{value:,}"
    if isinstance(datasets := header.metadata.get("imatrix.datasets"), tuple):
        yield "made from", ", ".join(map(str, datasets))


def _cache(header: Header) -> tuple[int, int]:
    """Return the bytes that a token takes in the cache, and those of the context it was trained with."""
    settings = LoadSettings(model=header.path, n_ctx=header.context_trained)
    return cache_bytes_per_token(header, settings), cache_bytes(header, settings) if settings.n_ctx else 0


def _document(file: _File, with_tensors: bool) -> dict[str, Any]:
    """Return the same facts, and the whole metadata, for a program."""
    header = file.header
    per_token, whole = _cache(header) if header.kind == "model" else (0, 0)
    document: dict[str, Any] = {
        "name": header.name, "path": header.path, "kind": header.kind, "architecture": header.architecture,
        "licence": _licence(header), "size_bytes": file.size_bytes, "files": header.shards,
        "parameters": file.parameters, "quant": header.quant, "bits_per_weight": round(file.bits_per_weight, 4),
        "tensor_types": dict(_type_counts(file.tensors)), "context": header.context_trained,
        "layers": header.number("block_count"), "heads": header.per_layer("attention.head_count"),
        "kv_heads": header.per_layer("attention.head_count_kv") or header.per_layer("attention.head_count"),
        "vocabulary_size": _vocabulary_size(header), "cache_bytes_per_token": per_token,
        "cache_bytes_at_trained_context": whole,
        "chat_template": header.chat_template, "sampling": header.sampling,
        "metadata": {
            key: {"elements": value.count} if isinstance(value, ArrayInfo) else value
            for key, value in header.metadata.items()
        },
    }  # fmt: skip
    with contextlib.suppress(LocalknobsError):
        document["card"] = asdict(read_card(header.path))
    if votes := _votes(header.path):
        document["votes"] = [tally.as_mapping() for tally in votes]
    if with_tensors:
        document["tensors"] = [
            {"name": one.name, "shape": one.shape, "type": one.type_name, "size_bytes": one.size_bytes}
            for one in file.tensors
        ]
    return document


def _licence(header: Header) -> str:
    name = header.text("general.license.name") or header.text("general.license")
    return " ".join(filter(None, (name, header.text("general.license.link"))))


def _vocabulary_size(header: Header) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, ArrayInfo):
        return tokens.count
    return len(tokens) if isinstance(tokens, tuple) else header.number("vocab_size")


def _type_counts(tensors: tuple[TensorInfo, ...]) -> list[tuple[str, int]]:
    return Counter(tensor.type_name for tensor in tensors).most_common()


def _types(tensors: tuple[TensorInfo, ...]) -> str:
    return ", ".join(f"{count} {name}" for name, count in _type_counts(tensors)) or "none"


def _control_vector_facts(header: Header) -> Iterator[tuple[str, object]]:
    layers = sorted(filter(None, (direction_layer(tensor.name) for tensor in header.tensors)))
    yield "for models of", header.text("controlvector.model_hint") or "not stated"
    yield "directions", f"{len(layers)}, for the layers {layers[0]} to {layers[-1]}" if layers else "none"
    if header.tensors and header.tensors[0].shape:
        yield "width", header.tensors[0].shape[0]


def _ranks(header: Header) -> list[int]:
    """Return the ranks of an adapter's pairs: the sizes that `lora_b` shares with `lora_a`."""
    return [tensor.shape[0] for tensor in header.tensors if tensor.name.endswith(".lora_b") and tensor.shape]


def _span(values: tuple[int, ...]) -> str:
    """Return one number, or the range of a value that differs between layers."""
    if not values:
        return "not stated"
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, by layer"


def _shape(tensor: TensorInfo) -> str:
    return " x ".join(map(str, tensor.shape)) or "1"
