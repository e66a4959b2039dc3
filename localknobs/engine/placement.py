"""Where weights lie, as the user typed it: shares of the graphics cards, and buffers of single tensors."""

from __future__ import annotations

import re

from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue


def gpu_shares(settings: LoadSettings) -> tuple[float, ...]:
    """Return the share of each GPU; empty when nobody chose.

    Raises:
        BadValue: `tensor_split` is no list of shares.
    """
    if not settings.tensor_split.strip():
        return ()
    try:
        shares = tuple(float(part) for part in re.split("[,/]", settings.tensor_split))
    except ValueError:
        shares = ()
    if not shares or not all(0 <= share < 1e9 for share in shares) or not sum(shares):
        raise BadValue(
            f"tensor_split (-ts) cannot be {settings.tensor_split!r}",
            "It takes one share a GPU, separated by commas: 3,1 gives the first three quarters.",
        )
    return shares


def tensor_places(settings: LoadSettings) -> tuple[tuple[str, str], ...]:
    """Return (pattern of tensor names, buffer name) pairs.

    Raises:
        BadValue: `override_tensor` is no list of such pairs, or a pattern is no regular expression.
    """
    pairs = []
    for item in filter(None, (part.strip() for part in settings.override_tensor.split(","))):
        pattern, separator, name = item.partition("=")
        if not (pattern and separator and name):
            raise BadValue(
                f"override_tensor (-ot) cannot be {item!r}", "It takes PATTERN=BUFFER, such as ffn_.*_exps=CPU."
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadValue(
                f"override_tensor (-ot): {pattern} is no pattern: {error}",
                "It takes a regular expression that is looked for in each tensor's name.",
            ) from None
        pairs.append((pattern, name))
    return tuple(pairs)
