"""What a request is told when it gets no answer: a status and OpenAI's form of an error."""

from __future__ import annotations

from typing import Any

from localknobs import errors

_STATUS: dict[type[errors.LocalknobsError], tuple[int, str]] = {
    errors.ContextFull: (400, "context_length_exceeded"),
    errors.BadValue: (400, "invalid_value"),
    errors.NotFound: (400, "not_found"),
    errors.Unsupported: (400, "unsupported"),
    errors.NotEnough: (500, "not_enough_memory"),
    errors.EngineDied: (500, "engine_died"),
}


class Refused(Exception):
    """A request that gets an error for an answer.

    Args:
        status: HTTP's number.
        message: What happened, and what to do.
        param: The field of the request that is wrong; None when it is not one field.
        code: A word that programs can look for.
        extra: More keys of the error, such as the two numbers of a full context.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.extra = extra or {}

    def body(self) -> dict[str, Any]:
        """Return the JSON that says so."""
        kind = {401: "authentication_error", 403: "permission_error", 503: "unavailable_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code, **self.extra}
        return {"error": error}


def refusal_of(error: Exception, param: str | None = None) -> Refused:
    """Return the refusal that an error of the program means for a request."""
    if isinstance(error, Refused):
        return error
    if not isinstance(error, errors.LocalknobsError):
        return Refused(500, f"Unexpected {type(error).__name__}: {error}", code="internal_error")
    status, code = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), (500, "failed"))
    extra: dict[str, Any] = {}
    if isinstance(error, errors.ContextFull):
        extra = {"n_prompt_tokens": error.needed_tokens, "n_ctx": error.available_tokens}
    return Refused(status, str(error), param=param, code=code, extra=extra)
