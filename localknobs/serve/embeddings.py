"""`/v1/embeddings`: texts as vectors. The request, every field checked, and the reply, in OpenAI's forms."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localknobs.serve.refused import Refused

MOST_INPUTS = 2048
"""Texts of one request, as OpenAI has it."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What is asked.

    Args:
        inputs: Texts, or tokens of one.
        encoded: Whether vectors are sent as base64 of 32-bit numbers, little-endian first, else as lists.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    encoded: bool


def texts_of(body: Mapping[str, Any]) -> Texts:
    """Read a request.

    Raises:
        Refused: a field is wrong, missing, or asks for what is not there.
    """
    given = body.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given and all(type(one) is int for one in given)):
        given = [given]
    if not isinstance(given, list) or not given:
        what = "is missing" if given is None else "takes a text, tokens, or a list of texts or of tokens"
        raise Refused(400, f"`input` {what}.", param="input")
    if len(given) > MOST_INPUTS:
        raise Refused(400, f"`input` has {len(given):,} texts; at most {MOST_INPUTS:,} are taken.", param="input")
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise Refused(400, "`encoding_format` must be float or base64.", param="encoding_format")
    if body.get("dimensions") is not None:
        raise Refused(
            400, "Vectors have the model's own width, which is not cut; leave `dimensions` out.", param="dimensions",
            code="unsupported",
        )  # fmt: skip
    return Texts(tuple(_input(at, one) for at, one in enumerate(given)), form == "base64")


def _input(at: int, given: Any) -> str | tuple[int, ...]:
    if isinstance(given, str) and given:
        return given
    if isinstance(given, list) and given and all(type(one) is int for one in given):
        return tuple(given)
    what = "is empty" if given in ("", []) else "is neither a text nor a list of token numbers"
    raise Refused(400, f"`input[{at}]` {what}.", param=f"input[{at}]")


def embeddings_reply(
    model: str, vectors: Sequence[array[float]], tokens: int, *, encoded: bool, notes: Sequence[str]
) -> dict[str, Any]:
    """Return the reply.

    Args:
        model: The name that the server gives its model.
        vectors: One a text, in order.
        tokens: That were read, of all together.
        encoded: Whether they are sent as base64.
        notes: What the user should know.
    """
    data = [
        {"object": "embedding", "index": at, "embedding": _encoded(vector) if encoded else list(vector)}
        for at, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {
        "object": "list", "data": data, "model": model, "usage": usage, **({"notes": list(notes)} if notes else {}),
    }  # fmt: skip


def _encoded(vector: array[float]) -> str:
    return base64.b64encode(vector.tobytes()).decode("ascii")
