"""A GGUF file as a model of transformers whose weights stay the file's own bytes.

Every matrix keeps its blocks; what a product needs of it is turned into numbers for that product alone, some rows at
a time, on the way forward and again on the way back. So the model takes the memory of the file and a bounded piece.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from localknobs.convert.families import architecture_of, family_for
from localknobs.convert.outline import Outline, Place, place_of
from localknobs.convert.torch_blocks import block_shape, check_readable, values_of
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import BadFile, Unsupported
from localknobs.gguf_info import Header, TensorInfo, read_headers

PIECE_VALUES = 1 << 24
"""Most weights that are numbers at once: 64 MiB of float32."""
_HEAD, _EMBEDDING = "output.weight", "token_embd.weight"


class _Product(torch.autograd.Function):
    """x W^T, with W turned into numbers piece by piece in both directions; W has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, layer: QuantizedLinear) -> Any:
        ctx.layer = layer
        out = x.new_empty((*x.shape[:-1], layer.out_features))
        for first, last, weight in layer.pieces(x.dtype):
            out[..., first:last] = x @ weight.T
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        (gradient,) = gradients
        back = None
        for first, last, weight in ctx.layer.pieces(gradient.dtype):
            part = gradient[..., first:last] @ weight
            back = part if back is None else back.add_(part)
        return back, None


@cache
def _room(device: str, values: int) -> Any:
    """Return the memory in which all layers become numbers; None on a card, which manages its own.

    New memory for each would be scattered among what is kept for the way back, and could not be given back.
    """
    return torch.empty(values) if device == "cpu" else None


class QuantizedLinear(nn.Linear):
    """A linear layer over the blocks of a file.

    Args:
        blocks: Bytes of the matrix, uint8.
        type_name: ggml's name of their type.
        shape: (rows, columns).
        bias: Of the layer, or None.
        dtype: Type in which its weight is given when somebody asks for it.

    Shapes:
        blocks: (rows * blocks of a row, bytes of a block).
    """

    blocks: Any

    def __init__(self, blocks: Any, type_name: str, shape: tuple[int, int], bias: Any, dtype: Any) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.type_name, self.dtype = type_name, dtype
        self.register_buffer("blocks", blocks, persistent=False)
        self.bias = bias

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """The whole matrix as numbers, made anew each time."""
        return values_of(self.type_name, self.blocks).reshape(self.out_features, self.in_features).to(self.dtype)

    def pieces(self, dtype: Any) -> Any:
        """Yield (first row, last row, numbers of those rows); each piece lies where the one before did."""
        room = _room(self.blocks.device.type, max(PIECE_VALUES, self.in_features))
        rows = max(1, PIECE_VALUES // self.in_features)
        per_row = self.in_features // block_shape(self.type_name)[0]
        for first in range(0, self.out_features, rows):
            last = min(first + rows, self.out_features)
            values = values_of(self.type_name, self.blocks[first * per_row : last * per_row], room)
            yield first, last, values.reshape(last - first, self.in_features).to(dtype)

    def forward(self, input: Any) -> Any:  # noqa: A002 (torch's own name)
        """Return the product with the input, and the bias added."""
        product: Any = _Product.apply
        out = product(input, self)
        return out if self.bias is None else out + self.bias


class QuantizedEmbedding(nn.Embedding):
    """An embedding over the blocks of a file: only the rows that are looked up become numbers.

    Args:
        blocks, type_name, shape, dtype: As of `QuantizedLinear`.
        scale: What each row is multiplied by.
    """

    blocks: Any

    def __init__(self, blocks: Any, type_name: str, shape: tuple[int, int], dtype: Any, scale: float) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = shape
        self.padding_idx = None
        self.type_name, self.dtype, self.scale = type_name, dtype, scale
        self.register_buffer("blocks", blocks, persistent=False)

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """The whole matrix as numbers, made anew each time."""
        return values_of(self.type_name, self.blocks).reshape(self.num_embeddings, self.embedding_dim).to(self.dtype)

    def forward(self, input: Any) -> Any:  # noqa: A002 (torch's own name)
        """Return the rows of some tokens."""
        rows = self.blocks.reshape(self.num_embeddings, -1)[input.flatten()]
        values = values_of(self.type_name, rows.reshape(-1, block_shape(self.type_name)[1]))
        return values.reshape(*input.shape, self.embedding_dim).to(self.dtype) * self.scale


def config_of(folder: Path, layers: int = 0) -> Any:
    """Return the config of a folder, cut down to some layers; 0 for all."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    return config


def load_gguf_model(folder: Path, file: Path, *, dtype: Any = None, device: str = "cpu", layers: int = 0) -> Any:
    """Return a GGUF file as a model of transformers, frozen.

    Args:
        folder: Where its config lies, as transformers writes it.
        file: The GGUF file, the first one of a split model.
        dtype: Type to compute in; float32 when not given.
        device: Where the model is put.
        layers: How many of its layers are taken; 0 for all.

    Raises:
        BadFile: a tensor is missing or has another shape than the config says.
        Unsupported: a type or an architecture cannot be read.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, GenerationConfig

    dtype = dtype or torch.float32
    with init_empty_weights(include_buffers=False):
        make: Any = AutoModelForCausalLM.from_config
        model = make(config_of(folder, layers), trust_remote_code=False)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.name_or_path = model.config._name_or_path = str(file)
    _Filling(model, folder, _Bytes(file), dtype, device).run()
    return model.to(device).eval()


class _Bytes:
    """The tensors of a file or of a split model."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.places: dict[str, tuple[Header, TensorInfo]] = {
            tensor.name: (header, tensor) for header in read_headers(file) for tensor in header.tensors
        }

    def read(self, name: str, shape: tuple[int, ...]) -> tuple[Any, str]:
        """Return a tensor's bytes, a line a row, and their type."""
        if name not in self.places:
            raise BadFile(
                f"{self.file} has no tensor {name}", "The file is of another model than the config beside it."
            )
        header, tensor = self.places[name]
        if tuple(reversed(tensor.shape)) != shape:
            raise BadFile(
                f"{name} of {self.file} has the shape {tuple(reversed(tensor.shape))}, and the config says {shape}",
                "The file is of another model: name its own checkpoint with --checkpoint.",
            )
        stored = np.fromfile(header.path, np.uint8, tensor.size_bytes, offset=header.data_start + tensor.offset)
        return stored.reshape(shape[0], -1) if len(shape) > 1 else stored, tensor.type_name


class _Filling:
    """Puts a file's tensors into a model without weights."""

    def __init__(self, model: Any, folder: Path, stored: _Bytes, dtype: Any, device: str) -> None:
        self.model, self.stored, self.dtype = model, stored, dtype
        self.on_processor = device == "cpu"
        self.shared: dict[str, Any] = {}  # embedding and head may be one tensor
        self.shapes = {
            name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)
        }
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config.setdefault("architectures", [type(model).__name__])
        config["architectures"] = config["architectures"] or [type(model).__name__]
        specs = {name: TensorSpec(name, "F32", shape, stored.file, 0, 0) for name, shape in self.shapes.items()}
        kind = family_for(config)
        if kind is None:
            raise Unsupported(
                f"The architecture {architecture_of(config)} cannot be trained over its GGUF file",
                "Train over the checkpoint: --method lora.",
            )
        self.family = kind(Outline(folder, config, specs))

    def run(self) -> None:
        """Replace every matrix, then give the rest its values."""
        for name in self.shapes:
            owner_name, _, leaf = name.rpartition(".")
            owner = self.model.get_submodule(owner_name)
            if leaf == "weight" and isinstance(owner, nn.Linear | nn.Embedding):
                self._put(owner_name, self._matrix(name, owner))
        for name in self.shapes:
            owner_name, _, leaf = name.rpartition(".")
            owner = self.model.get_submodule(owner_name)
            if not isinstance(owner, QuantizedLinear | QuantizedEmbedding):
                setattr(owner, leaf, self._vector(name))
        self._turn_as_the_file_says()

    def _matrix(self, name: str, owner: Any) -> Any:
        place = self._place(name)
        shape = self.shapes[name]
        rows, type_name = self.shared.get(place.name) or self.stored.read(place.name, shape)
        if place.name == _EMBEDDING:
            self.shared[place.name] = rows, type_name
        check_readable(type_name, on_processor=self.on_processor, where=f"{place.name} of {self.stored.file}")
        if place.order is not None:  # rows are whole blocks: put in order they are still the file's own bytes
            ordered = np.empty_like(rows)
            ordered[place.order] = rows
            rows = ordered
        blocks = torch.from_numpy(rows).reshape(-1, block_shape(type_name)[1])
        if isinstance(owner, nn.Embedding):
            return QuantizedEmbedding(
                blocks, type_name, shape, self.dtype, float(getattr(owner, "scalar_embed_scale", 1.0))
            )  # fmt: skip
        bias_name = f"{name.removesuffix('.weight')}.bias"
        return QuantizedLinear(
            blocks, type_name, shape, self._vector(bias_name) if bias_name in self.shapes else None, self.dtype
        )  # fmt: skip

    def _vector(self, name: str) -> Any:
        place = self._place(name)
        stored, type_name = self.stored.read(place.name, self.shapes[name])
        check_readable(type_name, on_processor=self.on_processor, where=f"{place.name} of {self.stored.file}")
        blocks = torch.from_numpy(stored.reshape(-1)).reshape(-1, block_shape(type_name)[1])
        values = values_of(type_name, blocks).reshape(self.shapes[name]) - place.shift
        if place.order is not None:
            ordered = torch.empty_like(values)
            ordered[torch.from_numpy(place.order.copy())] = values
            values = ordered
        return nn.Parameter(values.to(self.dtype), requires_grad=False)

    def _place(self, name: str) -> Place:
        if len(self.shapes[name]) > 2:
            raise Unsupported(
                f"{name} holds several experts, which cannot be trained over a GGUF file yet",
                "Train over the checkpoint: --method lora.",
            )
        if name == "lm_head.weight" and _HEAD not in self.stored.places:  # the embedding is the head too
            return Place(_EMBEDDING, None, 0.0)
        return place_of(self.family, name)

    def _put(self, name: str, module: Any) -> None:
        parent, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, module)

    def _turn_as_the_file_says(self) -> None:
        """Take the factors of the rotary frequencies (Llama 3.1) from the file where its config does not know them."""
        rope = getattr(self.model.config, "rope_parameters", None) or {}
        if "rope_freqs.weight" not in self.stored.places or rope.get("rope_type", "default") != "default":
            return
        for module in self.model.modules():
            if (turned := getattr(module, "inv_freq", None)) is not None:
                stored, _ = self.stored.read("rope_freqs.weight", tuple(turned.shape))
                module.inv_freq = turned / torch.from_numpy(stored).view(torch.float32)
