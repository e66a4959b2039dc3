"""From the fields of a request to sampling values: the knob rows' own names and flags, and OpenAI's names for some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from localknobs.errors import LocalknobsError
from localknobs.knobs import Knob, Value, knobs_of
from localknobs.serve.refused import Refused, refusal_of


def _names_of_knobs() -> dict[str, Knob]:
    """Return every name a request may call a sampling knob by: llama.cpp's, its long flags, and OpenAI's."""
    rows = {row.name: row for row in knobs_of("sampling")}
    names = {**rows}
    for row in rows.values():
        names |= {flag[2:].replace("-", "_"): row for flag in row.flags if flag.startswith("--")}
    return {**names, "max_tokens": rows["n_predict"], "max_completion_tokens": rows["n_predict"]}


KNOB_NAMES = _names_of_knobs()
"""Field to knob, such as `temperature` to the row `temp`."""

NO_TOOLS = (
    "Tools are not supported (describe the function in the prompt, and have its arguments written by `response_format` "
    "with a JSON schema)"
)
"""What is said where a request has tools."""
_ONE_ANSWER = "One answer a request is written (for several, ask again with other seeds: the prompt is not read again)"

_UNSUPPORTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "tools": (lambda value: value == [], NO_TOOLS),
    "functions": (lambda value: value == [], NO_TOOLS),
    "tool_choice": (lambda value: value in ("none", "auto"), NO_TOOLS),
    "n": (lambda value: value == 1, _ONE_ANSWER),
    "best_of": (lambda value: value == 1, _ONE_ANSWER),
    "suffix": (lambda value: value == "", "Text after the answer is not supported"),
    "modalities": (lambda value: value == ["text"], "Only text is supported"),
    "audio": (lambda value: False, "Only text is supported"),
    "web_search_options": (lambda value: False, "This server opens no connection"),
    "ignore_eos": (lambda value: value is False, "An answer ends with the model's own end token"),
    "post_sampling_probs": (lambda value: value is False, "Probabilities are those before the samplers"),
}
"""Fields that would change the answer and are not there: the values that change nothing, and what is said of others."""

_OF_NO_EFFECT = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
)
"""Fields that mean something to other servers, and nothing to an answer."""

OWN = frozenset(
    (
        "model", "messages", "prompt", "stream", "stream_options", "response_format", "json_schema", "cache_prompt",
        "logprobs", "top_logprobs", "n_probs", "echo", "lora",
    )
)  # fmt: skip
"""Fields that `questions.py` reads."""


def sampling_of(body: Mapping[str, Any], context_size: int) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Return the sampling values of a request, and notes on fields that nobody knows.

    Args:
        body: The request; a field that is null counts as left out.
        context_size: What -1 means for the windows of the penalties, as in llama.cpp.

    Raises:
        Refused: a value is wrong, or asks for what is not there.
    """
    values: dict[str, Value] = {}
    unknown: list[str] = []
    for name, value in body.items():
        if value is None or name in OWN or name in _OF_NO_EFFECT:
            continue
        if name in _UNSUPPORTED:
            changes_nothing, reason = _UNSUPPORTED[name]
            if not changes_nothing(value):
                raise Refused(400, f"{reason}; leave `{name}` out.", param=name, code="unsupported")
        elif row := KNOB_NAMES.get(name):
            checked = _checked(row, name, value, context_size)
            if values.setdefault(row.name, checked) != checked:
                raise Refused(400, f"`{name}` says another value than a field of the same meaning.", param=name)
        else:
            unknown.append(name)
    return values, tuple(map(_unknown, unknown[:20]))


def _unknown(name: str) -> str:
    near = get_close_matches(name, [*KNOB_NAMES, *OWN], n=1, cutoff=0.75)
    return f"The field {name[:100]!r} is not known here and was ignored." + (f" Is it {near[0]}?" if near else "")


def _checked(row: Knob, name: str, value: Any, context_size: int) -> Value:
    """Return a value in the knob's own type, with what llama.cpp's requests write otherwise."""
    if row.name in ("repeat_last_n", "dry_penalty_last_n") and value == -1:
        value = context_size
    elif (row.name == "top_k" and value == -1) or (row.name == "temp" and _is_below_zero(value)):
        value = 0
    elif row.name == "seed" and value == 2**32 - 1:
        value = -1
    elif row.name == "logit_bias":
        value = _bias(name, value)
    try:
        return row.check(value)
    except LocalknobsError as error:
        raise refusal_of(error, name) from None
    except OverflowError:
        raise Refused(400, f"`{name}` is too large a number.", param=name, code="invalid_value") from None


def _is_below_zero(value: Any) -> bool:
    return type(value) in (int, float) and value < 0


def switch(body: Mapping[str, Any], name: str, where: str = "", *, default: bool = False) -> bool:
    """Return a field that is true or false; raises `Refused`.

    Args:
        body: The request, or an object in it.
        name: The field.
        where: What stands before its name in an error.
        default: What it is where it is left out.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Refused(400, f"`{where}{name}` must be true or false.", param=f"{where}{name}")
    return value


def _bias(name: str, value: Any) -> list[list[Any]]:
    """Return (token, bias) pairs of OpenAI's object or llama.cpp's list; `false` means never."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    made: list[list[Any]] = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise Refused(400, f'`{name}` takes {{"TOKEN": BIAS}} or [[TOKEN, BIAS]].', param=name)
        token, bias = pair
        if isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 10:
            token = int(token)
        if type(token) is not int:
            raise Refused(400, f"`{name}` names a token by its number; /tokenize tells it.", param=name)
        made.append([token, float("-inf") if bias is False else bias])
    return made
