"""What all families share: names of tensors, the numbers of a model, and the order of both in a file.

A family is one file with one class, registered once by the names that `config.json` gives its architectures.
It says what differs from a plain decoder of the Llama kind; order and keys are those of llama.cpp's own
converter, so that its files and these can be compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from localknobs.convert import ggml
from localknobs.convert.checkpoint import WeightSource
from localknobs.convert.metadata import Sheet
from localknobs.convert.rope import Rope, add_rope, rope_of
from localknobs.convert.tensors import Array, Floats, Part, PlannedTensor
from localknobs.convert.vocabulary import Kind, Vocabulary
from localknobs.errors import BadFile, Unsupported

NAMES: dict[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
"""Modules of a checkpoint, those of a layer without their prefix, to their names in a GGUF file."""

HEAD = "lm_head.weight"
_ALWAYS_FLOAT = ("ffn_gate_inp", "ffn_gate_inp_shexp")
"""Modules whose weights stay F32 whatever is asked for: they choose experts."""
_NOT_WEIGHTS = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")

OwnFlags = tuple[dict[str, bool], dict[str, bool]]
"""Flags of a vocabulary that are set before it, and after it."""
Head = Literal["needed", "optional", "embedding"]
ByName = TypeVar("ByName", bound="type[Family]")
FAMILIES: dict[str, type[Family]] = {}
"""Names of architectures in `config.json` to families."""


def register(*names: str) -> Callable[[ByName], ByName]:
    """Register a family for the names of architectures that its files have."""

    def keep(family: ByName) -> ByName:
        for name in names:
            assert name not in FAMILIES, f"{name} is registered twice"
            FAMILIES[name] = family
        return family

    return keep


class Family:
    """One model of a family: its plan is read off its configuration and the names of its tensors.

    Args:
        source: The checkpoint; no weight of it is read here.

    Attributes:
        architecture: llama.cpp's name.
        names: Modules of a checkpoint to names, as in `NAMES`.
        defaults: What transformers takes where `config.json` is silent.
        theta: Base frequency of the rotary positions, likewise.
        rope_kinds: Scalings of the rotary positions that llama.cpp computes for this family.
        head: Whether llama.cpp looks for a head of its own (`output.weight`): must there be one, may it be the
            embedding, or is it always that.
        vocabulary_kind: Where the vocabulary is.
        pre_tokenizers: Names it goes by, where several stand for the same rules.
    """

    architecture: ClassVar[str]
    names: ClassVar[Mapping[str, str]] = NAMES
    defaults: ClassVar[Mapping[str, Any]] = {}
    theta: ClassVar[float | None] = 10000.0
    local_theta: ClassVar[float | None] = None
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "linear", "dynamic", "yarn")
    head: ClassVar[Head] = "optional"
    vocabulary_kind: ClassVar[Kind] = "any"
    pre_tokenizers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, source: WeightSource) -> None:
        self.source = source
        config = {**source.config, **(source.config.get("text_config") or {})}
        self.config: dict[str, Any] = {**self.defaults, **{k: v for k, v in config.items() if v is not None}}
        self.layers: int = self.need("num_hidden_layers")
        self.heads: int = self.need("num_attention_heads")
        self.heads_kv: int = self.config.get("num_key_value_heads", self.heads)
        self.width: int = self.need("hidden_size")
        self.vocabulary_size: int = self.need("vocab_size")
        self.rope: Rope = rope_of(self.config, self.theta, self.local_theta)
        if self.rope.kind not in self.rope_kinds:
            raise Unsupported(
                f"llama.cpp does not scale the rotary positions of {self.architecture} models by {self.rope.kind!r}",
                "Remove rope_scaling from config.json to convert the model without.",
            )

    # ---- the configuration -------------------------------------------------------------------

    def need(self, key: str) -> Any:
        """Return a number of the configuration that cannot be guessed.

        Raises:
            BadFile: it is missing, or not a positive whole number.
        """
        value = self.config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise BadFile(
                f"{self.source.folder / 'config.json'} has no {key}"
                if value is None
                else f"{self.source.folder / 'config.json'} gives {value!r} as {key}",
                "The configuration is not complete: fetch it again.",
            )
        return value

    @property
    def head_size(self) -> int:
        """Values of one head."""
        return int(self.config.get("head_dim") or self.width // self.heads)

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the model's numbers, in the order in which llama.cpp's converter sets them for every family."""
        config = self.config
        sheet.u32("{arch}.block_count", self.layers)
        for key, name in (
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
        ):
            if config.get(name) is not None:
                sheet.u32(f"{{arch}}.{key}", config[name])
        if config.get("is_causal") is False:
            sheet.flag("{arch}.attention.causal", False)
        add_rope(sheet, self.rope)
        self._add_first(sheet.f32, "attention.layer_norm_rms_epsilon", "rms_norm_eps", "norm_eps")
        self._add_first(
            sheet.f32, "attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"
        )
        self._add_first(sheet.u32, "expert_count", "num_local_experts", "num_experts")
        self._add_first(sheet.u32, "expert_used_count", "num_experts_per_tok")
        if config.get("head_dim") is not None:
            sheet.u32("{arch}.attention.key_length", config["head_dim"])
            sheet.u32("{arch}.attention.value_length", config["head_dim"])
        sheet.u32("general.file_type", file_type)

    def _add_first(self, add: Callable[[str, Any], None], key: str, *names: str) -> None:
        value = next((self.config[name] for name in names if self.config.get(name) is not None), None)
        if value is not None:
            add(f"{{arch}}.{key}", value)

    def add_early(self, sheet: Sheet) -> None:
        """Set keys that come before all others but the architecture."""

    def vocabulary_flags(self, vocabulary: Vocabulary) -> OwnFlags:
        """Return flags of the vocabulary: those set before it, and those set after it."""
        after = {}
        if vocabulary.space_prefix is False:
            after["tokenizer.ggml.add_space_prefix"] = False
        return {}, after

    # ---- tensors -----------------------------------------------------------------------------

    def ordered_names(self) -> list[str]:
        """Return the source tensors that belong to the text model, file by file and by name within a file."""
        info = self.source.info
        names = sorted(self.source.names(), key=lambda name: (info(name).file.name, name))
        return [name for name in names if not name.endswith(_NOT_WEIGHTS) and not self.is_left_out(name)]

    def is_left_out(self, name: str) -> bool:
        """Return whether a source tensor has no place in the file."""
        return self.head == "embedding" and name == HEAD

    def plain_name(self, name: str) -> str:
        """Return the name of a source tensor without what a multimodal model puts around it."""
        return name

    def plan(self, outtype: str) -> list[PlannedTensor]:
        """Return all tensors in the order of the file.

        Args:
            outtype: `F32`, `F16`, `BF16` or `Q8_0`: the type of those that leave a choice.

        Raises:
            BadFile: a tensor is missing or nobody knows it.
        """
        self.outtype = outtype
        planned = [*self.extra_tensors()]
        for name in self.ordered_names():
            planned.extend(self.tensors_of(name))
        return planned

    def extra_tensors(self) -> Iterator[PlannedTensor]:
        """Yield tensors that are computed from the configuration."""
        yield from ()

    def tensors_of(self, name: str) -> Iterator[PlannedTensor]:
        """Yield what a source tensor becomes; nothing when it only completes others."""
        yield self.tensor(self.new_name(name), [Part(name, self.order_of(name))])

    def order_of(self, name: str) -> Callable[[Array], Array] | None:
        """Return how the values of a source tensor are put in order, None where they stay."""
        return None

    def shift_of(self, name: str) -> float:
        """Return what is added to all values of a tensor, by its new name."""
        return 0.0

    def new_name(self, name: str) -> str:
        """Return the name of a source tensor in the file.

        Raises:
            BadFile: it has none.
        """
        plain = self.plain_name(name)
        module, _, kind = plain.rpartition(".")
        new = self.names.get(module)
        if new is None and module.startswith("model.layers."):
            number, _, module = module.removeprefix("model.layers.").partition(".")
            if number.isdecimal() and int(number) < self.layers and module in self.names:
                new = f"blk.{int(number)}.{self.names[module]}"
        if new is None or kind not in ("weight", "bias"):
            raise BadFile(
                f"{self.source.info(name).file} has the tensor {name}, which {self.architecture} models do not have",
                "The checkpoint is of another architecture than its config.json says, or newer than this program.",
            )
        return f"{new}.{kind}"

    def tensor(self, name: str, parts: list[Part], shape: tuple[int, ...] | None = None) -> PlannedTensor:
        """Return a tensor made of parts, with the type that llama.cpp's converter gives it.

        Args:
            name: In the file.
            parts: What it is made of.
            shape: Its sizes, where they are not those of its one part.
        """
        if shape is None:
            shape = self.source.info(parts[0].name).shape
        return PlannedTensor(
            name, shape, self.type_of(name, shape), self.source, tuple(parts), self.shift_of(name)
        )  # fmt: skip

    def computed(self, name: str, values: Floats) -> PlannedTensor:
        """Return a tensor with values of its own."""
        return PlannedTensor(name, values.shape, "F32", self.source, values=values)

    def type_of(self, name: str, shape: tuple[int, ...]) -> str:
        """Return the type of a tensor: what was asked for, F32 for vectors, norms, biases and routers."""
        module, _, kind = name.rpartition(".")
        if len(shape) <= 1 or name.endswith("_norm.weight") or kind != "weight":
            return "F32"
        if module.rpartition(".")[2] in _ALWAYS_FLOAT:
            return "F32"
        if self.outtype == "Q8_0" and shape[-1] % ggml.block_size("Q8_0"):
            return "F16"
        return self.outtype

    # ---- a plan that is whole ----------------------------------------------------------------

    def check(self, planned: list[PlannedTensor]) -> None:
        """Check that every layer has what the first has, and that embedding and heads have the sizes they must.

        Raises:
            BadFile: names the first tensor that is missing or has another shape.
            Unsupported: llama.cpp cannot hold the head that there is.
        """
        names = {tensor.name: tensor for tensor in planned}
        for name in ("token_embd.weight", "output_norm.weight"):
            if name not in names and not (name == "output_norm.weight" and "output_norm.bias" in names):
                raise BadFile(f"{self.source.folder} has no tensor for {name}", "The checkpoint is not complete.")
        self._check_head("output.weight" in names, names["token_embd.weight"].source_names[0])
        rows = names["token_embd.weight"].shape[0]
        if rows != self.vocabulary_size:
            where = self.source.info(names["token_embd.weight"].parts[0].name)
            raise BadFile(
                f"The tensor {where.name} of {where.file} has {rows} rows, "
                f"but config.json says {self.vocabulary_size} tokens",
                "Set vocab_size in config.json to what the tensor has, if the tokenizer agrees.",
            )
        kinds = [set[str]() for _ in range(self.layers)]
        for name in names:
            if name.startswith("blk."):
                _, layer, rest = name.split(".", 2)
                kinds[int(layer)].add(rest)
        every = set[str]().union(*kinds)
        for number, found in enumerate(kinds):
            missing = min(every - found, default=None) or ("attn_q.weight" if not found else None)
            if missing:
                raise BadFile(
                    f"{self.source.folder} has no tensor for blk.{number}.{missing}",
                    "A file of the checkpoint is missing, or config.json tells of more layers than there are.",
                )

    def _check_head(self, is_there: bool, embedding: str) -> None:
        if self.head == "needed" and not is_there:
            raise BadFile(
                f"{self.source.folder} has no tensor for output.weight, which {self.architecture} models need",
                "The checkpoint is not complete, or uses its embedding as the head, which llama.cpp would not load.",
            )
        if self.head != "embedding" or self.config.get("tie_word_embeddings", True):
            return
        if HEAD in self.source.names() and not _are_same(self.source, HEAD, embedding):
            raise Unsupported(
                f"{HEAD} of {self.source.info(HEAD).file} is another than the embedding, "
                f"and llama.cpp's {self.architecture} models have no place for it",
                "The file would answer with the embedding as its head, which was not trained for that.",
            )


def _are_same(source: WeightSource, one: str, other: str) -> bool:
    """Return whether two tensors have the same bytes; of those that differ, not much is read."""
    if source.info(one).dtype != source.info(other).dtype or source.info(one).shape != source.info(other).shape:
        return False
    bytes_of = [np.frombuffer(source.raw(name), np.uint8) for name in (one, other)]
    step = 1 << 20
    return all(
        np.array_equal(bytes_of[0][at : at + step], bytes_of[1][at : at + step])
        for at in range(0, bytes_of[0].size, step)
    )


def by_halves(heads: int) -> Callable[[Array], Array]:
    """Return how query and key rows are put in order: llama.cpp turns neighbours where transformers turns halves.

    Shapes:
        (heads * size, ...) to (heads, size / 2, 2, ...).
    """

    def reorder(array: Array) -> Array:
        rows = array.shape[0]
        return array.reshape(heads, 2, rows // heads // 2, *array.shape[1:]).swapaxes(1, 2)

    return reorder


def upper_half(array: Array) -> Array:
    """Return the first half of the rows of each matrix."""
    return array[..., : array.shape[-2] // 2, :]


def lower_half(array: Array) -> Array:
    """Return the second half of the rows of each matrix."""
    return array[..., array.shape[-2] // 2 :, :]
