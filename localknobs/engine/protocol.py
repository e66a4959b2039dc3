"""What the parent and the worker say to each other: one JSON object a line, both ways."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, get_args

from localknobs import errors
from localknobs.engine import events
from localknobs.engine.view import SamplerView
from localknobs.knobs import KNOBS, Value

_EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(events.Event)}
_ERRORS: dict[str, type[errors.LocalknobsError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.LocalknobsError)
}


def to_line(message: Mapping[str, Any]) -> bytes:
    """Return one line for a pipe; infinities are written as JSON's usual extension."""
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def event_line(event: events.Event) -> bytes:
    """Return the line of an event."""
    if isinstance(event, events.TextArrived):  # the hot one: no recursive copy
        return to_line({
            "event": "TextArrived", "text": event.text, "generated_tokens": event.generated_tokens,
            "context_used": event.context_used, "tokens_per_s": event.tokens_per_s,
            "drafted_tokens": event.drafted_tokens, "accepted_tokens": event.accepted_tokens,
        })  # fmt: skip
    return to_line({"event": type(event).__name__, **dataclasses.asdict(event)})


def event_of(message: dict[str, Any]) -> events.Event:
    """Return the event of a parsed line."""
    fields = dict(message)
    kind = _EVENTS[fields.pop("event")]
    if kind is events.Finished:
        stats = fields["stats"]
        fields["stats"] = events.Stats(**{**stats, "drafted_by": tuple(stats["drafted_by"])})
    elif kind is events.SamplerChanged:
        fields["changes"] = values_of(fields["changes"])
    elif kind is events.TokensScored:
        fields["scores"] = tuple(map(tuple, fields["scores"]))
        fields["named"] = tuple(tuple(map(tuple, places)) for places in fields["named"])
    elif kind is events.Looked and fields["view"]:
        fields["view"] = SamplerView.from_plain(fields["view"])
    elif kind is events.ContextDropped:
        for name in ("held", "dropped"):
            fields[name] = tuple(map(tuple, fields[name]))
    made: events.Event = kind(**fields)
    return made


def values_of(plain: Mapping[str, Any]) -> dict[str, Value]:
    """Return knob values whose tuples JSON made into lists."""
    return {name: KNOBS[name].check(value) for name, value in plain.items()}


def error_line(error: errors.LocalknobsError) -> bytes:
    """Return the line of an error."""
    extra = {name: value for name, value in vars(error).items() if name.endswith(("_bytes", "_tokens"))}
    known = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    return to_line({"error": known, "message": error.message, "hint": error.hint, "extra": extra})


def error_of(message: dict[str, Any]) -> errors.LocalknobsError:
    """Return the error of a parsed line."""
    return _ERRORS[message["error"]](message["message"], message["hint"], **message["extra"])
