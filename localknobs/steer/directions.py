"""From the states of pairs of prompts to one direction a layer; plain numpy, nothing here knows a model.

Source: Zou 2023, arXiv:2310.01405; llama.cpp tools/cvector-generator (pca.hpp, mean.hpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from localknobs.errors import BadValue

Method = Literal["pca", "mean"]
Normalize = Literal["difference", "unit"]
METHODS: tuple[Method, ...] = get_args(Method)
NORMALIZATIONS: tuple[Normalize, ...] = get_args(Normalize)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Direction:
    """What was found in one layer.

    Args:
        layer: Which, from 0.
        unit: The direction, of length 1; prompts of the positive list lie further along it.
        apart: How far apart both lists lie along it, in the mean over the pairs.
        agree: Share of the pairs whose positive prompt lies further along it.
        explained: Share of the squared differences that lies along it.
        state: Mean length of the states of this layer.
    """

    layer: int
    unit: Floats
    apart: float
    agree: float
    explained: float
    state: float


def direction_of(layer: int, differences: Floats, state: float, method: Method) -> Direction:
    """Return the direction from the negative to the positive prompts in one layer.

    Args:
        layer: Which, from 0.
        differences: The positive state less the negative one, of each pair.
        state: Mean length of the states.
        method: `pca`: the first principal component of the differences, about 0 as llama.cpp takes them; `mean`: their
            mean. Both get the sign with which the mean difference points forward.

    Shapes:
        differences: (pairs, width).

    Raises:
        BadValue: both lists lead to the same states.
    """
    exact = differences.astype(np.float64)
    total = float(np.square(exact).sum())
    mean = exact.mean(axis=0)
    if method == "pca" and total:
        # Of the uncentred differences: their mean is what the two lists differ by, and must not be taken away.
        vector = np.linalg.svd(exact, full_matrices=False)[2][0]
        vector = -vector if vector @ mean < 0 else vector
    else:
        vector = mean
    length = float(np.linalg.norm(vector))
    # Where pairs only swap places the mean is nothing but rounding.
    if not total or length <= 1e-6 * np.sqrt(total):
        raise BadValue(
            f"Both lists lead to the same states in layer {layer}",
            "They must differ in what the vector shall change, and at the end of the prompts, where states are read.",
        )
    unit = vector / length
    along = exact @ unit
    return Direction(
        layer, unit.astype(np.float32), float(along.mean()), float((along > 0).mean()),
        float(np.square(along).sum()) / total, state,
    )  # fmt: skip


def vector_of(direction: Direction, normalize: Normalize, layers: int) -> Floats:
    """Return a direction as it stands in a file, where it is what a scale of 1 adds to the states of its layer.

    Args:
        direction: What was found.
        normalize: `unit`: of length 1, as llama.cpp's tool writes it, which in a model of long states changes little.
            `difference`: so long that all layers together move a state by the mean distance of both lists.
        layers: How many layers are steered.
    """
    length = 1.0 if normalize == "unit" else direction.apart / layers
    return (direction.unit * np.float32(length)).astype(np.float32)
