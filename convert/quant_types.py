"""Which type every tensor of a quantized file gets: asked of llama.cpp itself, by a dry run in a child process.

`python -m localknobs.convert.quant_types` is that child: a dry run reads the header alone, writes nothing,
and tells the types only in its log. A child, because llama.cpp ends the process on some headers, and
because its log is one for the whole process.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from localknobs.errors import BadFile, BadValue, EngineDied, UnknownName, Unsupported
from localknobs.ggml_types import FILE_TYPES, GGML_TYPES

FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}
QUANTIZABLE = tuple(name for name in FILE_TYPES.values() if name != "NVFP4")
"""File types that can be asked for; NVFP4 has no quantizer of its own in llama.cpp."""
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # quantize.cpp
# Type names of ggml that are no target of a tensor: sums for dot products, and integers.
_NOT_FOR_WEIGHTS = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}
TENSOR_TYPES = tuple(name for name, _, _ in GGML_TYPES.values() if name not in _NOT_FOR_WEIGHTS)


@dataclass(frozen=True, slots=True)
class TypeRequest:
    """What shapes llama.cpp's choice.

    Args:
        file_type: Name of the whole, such as `Q4_K_M`.
        tensor_types: Pairs of a regular expression, searched in the tensor's name, and a type; the first that fits.
        output_type: Type of `output.weight`, None for llama.cpp's choice.
        embedding_type: Type of the token embeddings, None for llama.cpp's choice.
        pure: Every tensor gets the same type.
        with_imatrix: An importance matrix will be used, which changes some choices.
    """

    file_type: str
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    with_imatrix: bool = False


@dataclass(frozen=True, slots=True)
class ChosenTypes:
    """llama.cpp's answer.

    Args:
        types: Tensor name to type, in the order in which llama.cpp writes them.
        fallbacks: Tensors whose rows do not divide by the type's block: name to (columns, wanted, used).
    """

    types: dict[str, str]
    fallbacks: dict[str, tuple[int, str, str]]


def file_type_named(name: str) -> str:
    """Return the file type a user means, in any case and by llama-quantize's aliases.

    Raises:
        UnknownName: there is none; the hint names the nearest.
    """
    upper = name.upper()
    if (known := _ALIASES.get(upper, upper)) in QUANTIZABLE:
        return known
    near = get_close_matches(upper, QUANTIZABLE, n=1, cutoff=0.5)
    raise UnknownName(
        f"There is no quantization {name}",
        f"Did you mean {near[0]}?" if near else f"There are {', '.join(QUANTIZABLE)}.",
    )


def tensor_type_named(name: str) -> str:
    """Return the tensor type a user means, in any case.

    Raises:
        UnknownName: there is none; the hint names the nearest.
    """
    upper = name.upper()
    if upper in TENSOR_TYPES:
        return upper
    near = get_close_matches(upper, TENSOR_TYPES, n=1, cutoff=0.5)
    raise UnknownName(
        f"There is no tensor type {name}",
        f"Did you mean {near[0]}?" if near else f"There are {', '.join(TENSOR_TYPES)}.",
    )


def check_pattern(pattern: str) -> None:
    """Refuse what is no regular expression.

    Raises:
        BadValue: it cannot be read.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise BadValue(
            f"{pattern} is no regular expression: {error}",
            r"Any part of a tensor's name is one, such as attn_v or blk\.0\.",
        ) from None


def choose_types(model: Path, requests: Sequence[TypeRequest]) -> list[ChosenTypes]:
    """Ask llama.cpp which types it would choose.

    Args:
        model: A GGUF file, of which only the header is read; the data may be a hole.
        requests: One a wanted file.

    Raises:
        BadValue: a regular expression cannot be read.
        BadFile: llama.cpp cannot make sense of the header.
        Unsupported: a type does not fit the tensors' widths, and there is none to fall back to.
        EngineDied: llama.cpp ended the child.
    """
    for pattern, _ in {pair for request in requests for pair in request.tensor_types}:
        check_pattern(pattern)
    asked = json.dumps({"model": os.fspath(model), "requests": [asdict(request) for request in requests]})
    child = subprocess.run(
        # -P: a folder the user happens to stand in must not lend its modules to the child.
        (sys.executable, "-P", "-m", "localknobs.convert.quant_types"),
        input=asked.encode(),
        capture_output=True,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )
    if child.returncode:
        log = tuple(child.stderr.decode("utf-8", "replace").splitlines()[-20:])
        raise EngineDied(f"llama.cpp cannot plan {model}", "The last log lines tell more.", log_tail=log)
    return [_chosen(log, model) for log in json.loads(child.stdout)]


_TENSOR = re.compile(
    r"^\[ *\d+/ *\d+\] (?P<name>\S+) +- \[[^\]]*\], type = +(?P<old>\S+), size = +[\d.]+ MiB"
    r"(?: -> +[\d.]+ MiB \((?P<new>\S+)\))?",
    re.MULTILINE,
)
_FALLBACK = re.compile(
    r"^warning: (?P<name>\S+) +- ncols +(?P<columns>\d+) not divisible by +\d+ \(required for type +(?P<wanted>\S+)\) "
    r".*-> falling back to +(?P<used>\S+)",
    re.MULTILINE,
)
_REASON = re.compile(r"failed to quantize: (.*)")


def _chosen(log: str, model: Path) -> ChosenTypes:
    if reason := _REASON.search(log):
        if "no tensor type fallback" in reason[1]:
            raise Unsupported(
                f"The type does not fit the widths of {model.name}, and llama.cpp has no other for them: {reason[1]}",
                "Choose a type with blocks of 32: Q8_0, Q5_0, Q4_0, IQ4_NL.",
            )
        raise BadFile(f"llama.cpp cannot quantize {model}: {reason[1]}", "The file may be no whole language model.")
    types = {found["name"]: (found["new"] or found["old"]).upper() for found in _TENSOR.finditer(log)}
    fallbacks = {
        found["name"]: (int(found["columns"]), found["wanted"].upper(), found["used"].upper())
        for found in _FALLBACK.finditer(log)
    }
    return ChosenTypes(types, fallbacks)


# ---- the child -----------------------------------------------------------------------------------


def _dry_runs(model: str, requests: list[dict[str, Any]]) -> Iterator[str]:
    """Run each request; yield llama.cpp's log of it."""
    from localknobs.convert.ggml import TYPE_NUMBERS
    from localknobs.engine.llama import lib

    pieces: list[str] = []

    @lib.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
    def keep(level: int, text: bytes, user_data: Any) -> None:
        pieces.append(text.decode("utf-8", "replace"))

    lib.llama_log_set(keep, ctypes.c_void_p(0))
    lib.llama_backend_init()
    any_importance = (ctypes.c_float * 1)(1.0)  # a dry run asks only whether there is some
    for request in requests:
        params = lib.llama_model_quantize_default_params()
        params.ftype = FILE_TYPE_NUMBERS[request["file_type"]]
        params.dry_run, params.pure, params.nthread = True, request["pure"], 1
        if request["output_type"]:
            params.output_tensor_type = TYPE_NUMBERS[request["output_type"]]
        if request["embedding_type"]:
            params.token_embedding_type = TYPE_NUMBERS[request["embedding_type"]]
        overrides = (lib.llama_model_tensor_override * (len(request["tensor_types"]) + 1))()
        for place, (pattern, type_name) in enumerate(request["tensor_types"]):
            overrides[place].pattern = pattern.encode()
            overrides[place].type = TYPE_NUMBERS[type_name]
        if request["tensor_types"]:
            params.tt_overrides = overrides
        importance = (lib.llama_model_imatrix_data * 2)()
        importance[0].name, importance[0].size = b"any", 1
        importance[0].data = ctypes.cast(any_importance, ctypes.POINTER(ctypes.c_float))
        if request["with_imatrix"]:
            params.imatrix = importance
        pieces.clear()
        code = lib.llama_model_quantize(os.fsencode(model), b"", ctypes.byref(params))
        log = "".join(pieces)
        yield log if not code or _REASON.search(log) else log + "failed to quantize: no reason given"


def main() -> None:
    """Answer on standard output; whatever llama.cpp prints goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    with open(out, "w", encoding="utf-8") as answer:
        json.dump(list(_dry_runs(asked["model"], asked["requests"])), answer)


if __name__ == "__main__":
    main()
