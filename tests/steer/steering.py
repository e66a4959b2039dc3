"""What the tests of control vectors share: two short lists, and a vector made of them. `from steering import make`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localknobs.jobs import drain
from localknobs.steer.make import FoundLayer, VectorConfig, make_vector, plan_vector

CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
UNKNOWN = ["why is the sky blue", "what is love", "who discovered america", "why do dogs bark"]
KNOWN = ["what does temperature do", "what is a token", "what does top-k do", "what is pruning"]


def make(model: Path, lists: tuple[Path, Path], output: Path, **more: Any) -> tuple[FoundLayer, ...]:
    """Make a vector; return what was found."""
    config = VectorConfig(model=model, positive=lists[0], negative=lists[1], output=output, threads=1, **more)
    return drain(make_vector(plan_vector(config)))


def write_lists(folder: Path) -> tuple[Path, Path]:
    """Write the two lists into a folder."""
    more, less = folder / "more.txt", folder / "less.txt"
    more.write_text("\n".join(UNKNOWN) + "\n")
    less.write_text("\n".join(KNOWN) + "\n")
    return more, less
