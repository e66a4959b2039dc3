"""Adapters that peft trained, read without torch: pairs of low rank, what stands beside them, and their true scale.

Reads LoRA with all that merges by arithmetic on one tensor: rsLoRA, DoRA, ranks and alphas by pattern, whole
modules that were trained (`modules_to_save`), trained tokens, biases, embeddings. Of any other kind it says
why only peft itself can merge it. Knows nothing of the base model.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localknobs.convert.checkpoint import Checkpoint, open_weights, read_json
from localknobs.convert.float_types import FLOAT_BYTES
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import BadFile, NotFound, Unsupported
from localknobs.paths import user_path

PROMPT_TYPES = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"})
"""Kinds of peft that add tokens to the input; no weight of the model can hold them."""
_VARIANTS = (
    "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
    "layer_replication", "target_parameters", "megatron_config",
)  # fmt: skip
"""Settings of LoRA that change its arithmetic beyond what is done here; peft itself knows them."""
_PREFIX = "base_model.model."
_FACTORS = {
    "lora_A.weight": "a", "lora_B.weight": "b", "lora_B.bias": "bias", "lora_embedding_A": "embedding_a",
    "lora_embedding_B": "embedding_b", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip
_BROKEN = "The adapter is not complete: save it again, or download it again."


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """An adapter the user named, and how strongly it shall act.

    Args:
        path: Its folder, or its file of weights.
        scale: Factor on top of the adapter's own scale; 1 is as it was trained.
    """

    path: Path
    scale: float = 1.0


def parse_lora(text: str) -> LoraChoice:
    """Return what `A` or `A:SCALE` names.

    Raises:
        BadValue: no path, or a scale that is not finite.
    """
    from localknobs.engine.adapter_files import path_and_scale  # 100 ms, which a conversion without adapters spares

    name, scale = path_and_scale(text)
    return LoraChoice(user_path(name), scale)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What LoRA trained for one module: its weight gets `scaling * B @ A` added.

    Args:
        module: Its path in the model, such as `model.layers.0.self_attn.q_proj`.
        a, b: Names of the factors in the adapter's file.
        scaling: alpha / rank, or alpha / sqrt(rank), as this module has it.
        rank: Columns of B, rows of A.
        is_embedding: The product belongs to the transposed weight.
        magnitude: Name of DoRA's vector, None without DoRA.
        bias: Name of the bias of B, None without one.
    Shapes:
        a: (rank, in).  b: (out, rank).  magnitude: (out,); (in,) of an embedding.
    """

    module: str
    a: str
    b: str
    alpha: float
    rank: int
    divisor: float
    is_embedding: bool = False
    magnitude: str | None = None
    bias: str | None = None

    def scaling(self, scale: float) -> float:
        """Return the factor of the product at a user's scale; in peft's order, for the same last bit."""
        return scale * self.alpha / self.divisor


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in a folder.

    Args:
        folder: Where it lies.
        config: What its `adapter_config.json` says.
        weights: Its tensors.
        pairs: What is added, in the order of the file.
        replaced: Tensors of the model that the adapter has whole: name in the model to name in its file.
        tokens: Rows of embeddings that the adapter has whole: name of the module to (tensor, row numbers).
        only_peft: Why only peft can merge it; empty when its arithmetic is known here.
    """

    folder: Path
    config: dict[str, Any]
    weights: Checkpoint
    pairs: tuple[LowRank, ...] = ()
    replaced: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    only_peft: str = ""

    @property
    def base_name(self) -> str:
        """The base model it was trained on, in its own words; may be empty."""
        return str(self.config.get("base_model_name_or_path") or "")

    def info(self, name: str) -> TensorSpec:
        """Return what is known of one of its tensors."""
        return self.weights.info(name)

    def replaces_module(self, module: str) -> bool:
        """Return whether a module was trained whole, so that it is no longer tied to another."""
        saved = self.config.get("modules_to_save") or ()
        return any(module == name or module.endswith(f".{name}") for name in saved)


def open_adapter(path: Path) -> Adapter:
    """Read an adapter's config and the names and shapes of its tensors, and check that they fit together.

    Raises:
        NotFound: there is no adapter.
        BadFile: a factor is missing, or a rank is not what the config says; names file and tensor.
        Unsupported: nothing could merge it into weights.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise NotFound(f"There is no adapter {path}", "Give the folder with adapter_config.json.")
    if not (folder / "adapter_config.json").is_file():
        raise NotFound(f"{folder} has no adapter_config.json", "Give the folder that peft saved the adapter in.")
    config = read_json(folder / "adapter_config.json")
    kind = str(config.get("peft_type", ""))
    if kind in PROMPT_TYPES:
        raise Unsupported(
            f"{folder} is of the kind {kind}: it adds tokens to the input and changes no weights",
            "It cannot be merged or converted; use it with peft itself.",
        )
    if config.get("alora_invocation_tokens"):
        raise Unsupported(
            f"{folder} is an activated LoRA: it acts on part of a prompt only", "It cannot be merged into the weights."
        )
    weights = Checkpoint(folder, config, [open_weights(_weights_path(folder))])
    if reason := _only_peft(kind, config):
        return Adapter(folder, config, weights, only_peft=reason)
    return _read_lora(folder, config, weights)


def _weights_path(folder: Path) -> Path:
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise NotFound(f"{folder} has no adapter_model.safetensors", _BROKEN)


def _only_peft(kind: str, config: dict[str, Any]) -> str:
    if kind != "LORA":
        return f"it is of the kind {kind or 'unknown'}"
    return next((f"it was made with {name}" for name in _VARIANTS if config.get(name)), "")


def _read_lora(folder: Path, config: dict[str, Any], weights: Checkpoint) -> Adapter:
    factors: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    tokens: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in weights.names():
        path = name.removeprefix(_PREFIX)
        ending = next((end for end in _FACTORS if path.endswith(f".{end}")), None)
        if weights.info(name).dtype not in FLOAT_BYTES:
            raise BadFile(f"{weights.info(name).file}: the tensor {name} holds no floating-point numbers", _BROKEN)
        if ending:
            module = path.removesuffix(f".{ending}")
            factors.setdefault(module, {})[_FACTORS[ending]] = name
        elif path.endswith(".token_adapter.trainable_tokens_delta"):
            module = path.removesuffix(".token_adapter.trainable_tokens_delta")
            tokens[module] = (name, _token_rows(folder, config, weights.info(name), module))
        elif "lora_" in path:
            raise Unsupported(f"{folder}: the tensor {name} belongs to no kind of LoRA that is known", _BROKEN)
        else:
            for infix in (".base_layer.", ".modules_to_save.", ".original_module."):
                path = path.replace(infix, ".")
            replaced[path] = name
    pairs = tuple(_pair(folder, config, weights, module, names) for module, names in factors.items())
    if not pairs and not replaced and not tokens:
        raise BadFile(f"{folder} has no tensors of an adapter", _BROKEN)
    return Adapter(folder, config, weights, pairs, replaced, tokens)


def _pair(folder: Path, config: dict[str, Any], weights: Checkpoint, module: str, names: dict[str, str]) -> LowRank:
    """Return the pair of one module, checked against the config."""
    is_embedding = "embedding_a" in names or "embedding_b" in names
    keys = ("embedding_a", "embedding_b") if is_embedding else ("a", "b")
    for key in keys:
        if key not in names:
            raise BadFile(f"{folder}: of the module {module} the factor {key[-1].upper()} is missing", _BROKEN)
    if config.get("use_dora") and "magnitude" not in names:
        raise BadFile(f"{folder}: of the module {module} DoRA's magnitude vector is missing", _BROKEN)
    rank = _by_pattern(folder, config, "rank_pattern", module, "r")
    alpha = _by_pattern(folder, config, "alpha_pattern", module, "lora_alpha")
    a, b = (weights.info(names[key]) for key in keys)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise Unsupported(
            f"{folder}: the factors of {module} are no matrices", "Only layers of matrices can be merged."
        )
    if a.shape[0] != rank or b.shape[1] != rank:
        raise BadFile(
            f"{folder}: the module {module} has rank {rank} in adapter_config.json, but factors of the shapes "
            f"{a.shape} and {b.shape}",
            "Config and weights do not belong together.",
        )
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return LowRank(
        module, a.name, b.name, alpha, int(rank), divisor, is_embedding, names.get("magnitude"), names.get("bias")
    )


def _by_pattern(folder: Path, config: dict[str, Any], pattern_key: str, module: str, key: str) -> float:
    """Return a module's value: of the first pattern that its path ends with, else the adapter's."""
    value = config.get(key)
    try:
        for pattern, special in (config.get(pattern_key) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                value = special
                break
    except (re.error, AttributeError):
        raise BadFile(f"{folder / 'adapter_config.json'} has a {pattern_key} that cannot be read", _BROKEN) from None
    if not isinstance(value, int | float) or isinstance(value, bool) or (key == "r" and value <= 0):
        raise BadFile(f"{folder / 'adapter_config.json'} does not say {key}", _BROKEN)
    return value


def _token_rows(folder: Path, config: dict[str, Any], spec: TensorSpec, module: str) -> tuple[int, ...]:
    """Return which rows of a module's weight were trained."""
    rows = config.get("trainable_token_indices")
    if isinstance(rows, dict):
        rows = next((value for key, value in rows.items() if module == key or module.endswith(f".{key}")), None)
    if (
        not isinstance(rows, list)
        or len(rows) != spec.shape[0]
        or not all(type(row) is int and row >= 0 for row in rows)
    ):
        raise BadFile(f"{folder}: trainable_token_indices does not fit the tensor {spec.name}", _BROKEN)
    return tuple(rows)
