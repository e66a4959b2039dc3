"""The errors a user can meet. The core raises them; only a front end catches and shows them.

Each says what happened (`message`) and then what to do (`hint`). Children are named by who can fix
the trouble. Exit codes belong to the CLI (`cli/main.py`).
"""

from __future__ import annotations


class LocalknobsError(Exception):
    """Something a user can understand and act on.

    Args:
        message: What happened, one line, no trailing full stop needed.
        hint: What to do about it; may be empty.

    Attributes:
        log_tail: The last lines llama.cpp printed before it, oldest first, where they tell more.
    """

    log_tail: tuple[str, ...] = ()

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class BadValue(LocalknobsError, ValueError):
    """A value the user gave is outside what a knob or a flag allows."""


class NotFound(LocalknobsError, FileNotFoundError):
    """A file, a model or something else that was named does not exist."""

    # OSError formats itself from errno and strerror; ours is a plain sentence.
    __str__ = LocalknobsError.__str__


class UnknownName(NotFound):
    """A knob, preset or lever has no such name: a slip in what was typed, where `NotFound` means a file."""


class Unsupported(LocalknobsError):
    """An architecture, type or feature that this build or this program cannot handle."""


class MissingExtra(LocalknobsError, ImportError):
    """An optional part is not installed; the hint names the extra to install."""

    __str__ = LocalknobsError.__str__


class HubFailure(LocalknobsError):
    """The model hub refused, could not be reached, or answered nonsense."""


class Offline(HubFailure):
    """Work that needs the hub was refused: offline work is asked for."""


class NotEnough(LocalknobsError):
    """Too little memory or disk.

    Args:
        needed_bytes: What the action takes.
        available_bytes: What there is.
    """

    def __init__(self, message: str, hint: str = "", *, needed_bytes: int = 0, available_bytes: int = 0) -> None:
        super().__init__(message, hint)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class ContextFull(LocalknobsError):
    """The prompt does not fit the context window; nothing was cut.

    Args:
        needed_tokens: Tokens the prompt has.
        available_tokens: Tokens the context holds.
    """

    def __init__(self, message: str, hint: str = "", *, needed_tokens: int = 0, available_tokens: int = 0) -> None:
        super().__init__(message, hint)
        self.needed_tokens = needed_tokens
        self.available_tokens = available_tokens


class BadFile(LocalknobsError):
    """A file is damaged or is not what it was taken for; the message names the path."""


class EngineDied(LocalknobsError):
    """The process that held the model ended unexpectedly.

    Args:
        log_tail: The last lines llama.cpp printed, oldest first.
    """

    def __init__(self, message: str, hint: str = "", *, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.log_tail = log_tail


class Stopped(LocalknobsError):
    """The user stopped the work."""
