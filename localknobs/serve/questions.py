"""From the JSON of a request to what the engine is asked, every field checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localknobs.engine import Message
from localknobs.knobs import Value
from localknobs.serve.fields import NO_TOOLS, sampling_of, switch
from localknobs.serve.refused import Refused
from localknobs.serve.scales import scales_of

MOST_LIKELIEST = 20
"""Most tokens that are named beside each one, as OpenAI has it."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked.

    Args:
        prompt: The conversation, or a raw text that is continued.
        values: Sampling values that the request names.
        schema: JSON schema the answer must follow; None for any text.
        continue_last: Whether the last message is the assistant's, and is continued.
        stream: Whether the answer is sent while it is written.
        with_usage: Whether a stream ends with the counts.
        likeliest: How many of the likeliest tokens are named beside each one; -1 names not even that one.
        fresh: Whether the prompt is read from its beginning, whatever the cache holds.
        scales: A scale for each adapter of the server, for this answer alone; None takes the server's.
        echo: Text that the answer begins with: the raw prompt, where it is asked for.
        notes: What the reply says about the request.
    """

    prompt: Sequence[Message] | str
    values: Mapping[str, Value]
    schema: Mapping[str, Any] | None = None
    continue_last: bool = False
    stream: bool = False
    with_usage: bool = False
    likeliest: int = -1
    fresh: bool = False
    scales: tuple[float, ...] | None = None
    echo: str = ""
    notes: tuple[str, ...] = ()


def chat_question(body: Mapping[str, Any], context_size: int, adapters: int = 0) -> Question:
    """Read a request to `/v1/chat/completions`.

    Args:
        body: The request.
        context_size: Tokens the context has.
        adapters: How many the server has.

    Raises:
        Refused: a field is wrong, missing, or asks for what is not there.
    """
    messages = _messages(body.get("messages"))
    likeliest = -1
    if switch(body, "logprobs"):
        likeliest = _count(body, "top_logprobs", 0)
    elif _count(body, "top_logprobs", 0):
        raise Refused(400, "`top_logprobs` needs `logprobs`: true.", param="top_logprobs")
    return Question(
        prompt=messages,
        continue_last=messages[-1]["role"] == "assistant",
        **_shared(body, context_size, adapters, likeliest),
    )


def text_question(body: Mapping[str, Any], context_size: int, adapters: int = 0) -> Question:
    """Read a request to `/v1/completions`; takes and raises what `chat_question` does."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str):
        what = "is missing" if prompt is None else "takes one text; lists and token numbers are not supported"
        raise Refused(400, f"`prompt` {what}.", param="prompt")
    likeliest = _count(body, "logprobs", -1) if body.get("logprobs") is not False else -1
    return Question(
        prompt=prompt, echo=prompt if switch(body, "echo") else "", **_shared(body, context_size, adapters, likeliest)
    )


def _shared(body: Mapping[str, Any], context_size: int, adapters: int, likeliest: int) -> dict[str, Any]:
    """Return what both kinds of requests have."""
    values, notes = sampling_of(body, context_size)
    schema = _schema(body, values)
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise Refused(400, "`stream_options` must be an object.", param="stream_options")
    asked = _count(body, "n_probs", 0)  # llama.cpp's own name
    return {
        "values": values, "notes": notes, "schema": schema, "likeliest": max(likeliest, asked or -1),
        "stream": switch(body, "stream"), "with_usage": switch(options or {}, "include_usage", "stream_options."),
        "fresh": not switch(body, "cache_prompt", default=True),
        "scales": None if body.get("lora") is None else scales_of(body["lora"], adapters, "lora"),
    }  # fmt: skip


def _messages(given: Any) -> list[Message]:
    if not isinstance(given, list) or not given:
        raise Refused(400, "`messages` must be a list with at least one message.", param="messages")
    messages = []
    for at, message in enumerate(given):
        where = f"messages[{at}]"
        if not isinstance(message, dict):
            raise Refused(400, f"`{where}` must be an object with a role and a content.", param=where)
        role = message.get("role")
        if role in ("tool", "function") or message.get("tool_calls"):
            param = f"{where}.tool_calls" if message.get("tool_calls") else f"{where}.role"
            raise Refused(400, f"{NO_TOOLS}.", param=param, code="unsupported")
        if not isinstance(role, str) or role not in _ROLES:
            raise Refused(
                400, f"`{where}.role` must be one of system, developer, user, assistant.", param=f"{where}.role"
            )
        messages.append(Message(role=_ROLES[role], content=_text(message.get("content"), where)))  # type: ignore[typeddict-item]
    return messages


def _text(content: Any, where: str) -> str:
    """Return a message's text, which may come in parts."""
    where = f"{where}.content"
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(400, f"`{where}` must be a text, or a list of parts.", param=where)
    texts = []
    for at, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise Refused(
                400, f"`{where}[{at}]` must be a part of type text: pictures and sounds are not supported.",
                param=f"{where}[{at}]", code="unsupported",
            )  # fmt: skip
        texts.append(part["text"])
    return "".join(texts)


def _schema(body: Mapping[str, Any], values: Mapping[str, Value]) -> Mapping[str, Any] | None:
    """Return the JSON schema of `response_format` or `json_schema`; None where any text may come."""
    wished, field = body.get("json_schema"), "json_schema"
    if (form := body.get("response_format")) is not None:
        kind = form.get("type") if isinstance(form, dict) else None
        if kind not in ("text", "json_object", "json_schema"):
            raise Refused(
                400, "`response_format` takes a type: text, json_object or json_schema.", param="response_format"
            )
        if kind != "text":
            if wished is not None:
                raise Refused(400, "`json_schema` and `response_format` both say a form.", param="response_format")
            wished, field = _schema_of_form(form), "response_format"
    if wished is not None and not isinstance(wished, dict):
        raise Refused(400, f"`{field}` must have a JSON schema, an object.", param=field)
    if wished is not None and values.get("grammar"):
        raise Refused(400, f"`grammar` and `{field}` both say a form.", param=field)
    return wished


def _schema_of_form(form: Mapping[str, Any]) -> Any:
    if form["type"] == "json_object":
        return form.get("schema") or {"type": "object"}
    inner = form.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else form.get("schema")
    return schema if isinstance(schema, dict) else "missing"


def _count(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not 0 <= value <= MOST_LIKELIEST:
        raise Refused(400, f"`{name}` must be a whole number from 0 to {MOST_LIKELIEST}.", param=name)
    return value
