"""What people type to name a model on the hub, read into its parts. Opens nothing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from localknobs.errors import BadValue
from localknobs.library.names import quant_in

HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
DEFAULT_ENDPOINT = "https://huggingface.co"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[0-9a-f]{7,40}|main|refs/.+")
_HINT = "Write org/repo, org/repo:Q4_K_M, org/repo/file.gguf, or a hub address."
_NOT_MODELS = {"datasets": "a dataset", "spaces": "a space", "collections": "a collection", "papers": "a paper"}


@dataclass(frozen=True, slots=True)
class Spec:
    """A model on the hub as a user names it.

    Args:
        repo: `org/name`.
        quant: Wanted quantization in capitals, such as `Q4_K_M`; empty when none was named.
        path: A file or folder inside the repository; empty for all of it.
        revision: Branch, tag or commit.
    """

    repo: str
    quant: str = ""
    path: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        ending = f":{self.quant}" if self.quant else f"/{self.path}" if self.path else ""
        return self.repo + ending


def endpoint() -> str:
    """Return the hub's address: `MODEL_ENDPOINT` as in llama.cpp, `HF_ENDPOINT`, or the public one."""
    given = os.environ.get("MODEL_ENDPOINT") or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    given = given.rstrip("/")
    return given if "://" in given else f"https://{given}"


def parse_spec(text: str, revision: str | None = None) -> Spec:
    """Read what a user typed.

    Args:
        text: `org/repo`, `org/repo:QUANT`, `org/repo@quant`, `org/repo/sub/file.gguf`, or a hub address of a
            repository, a folder or a file; `hf.co/` or `huggingface.co/` may stand in front.
        revision: Branch, tag or commit that was given apart from it.

    Raises:
        BadValue: it names nothing on the hub.
    """
    shown = re.sub(r"//[^/]*@", "//", text.strip())  # without a password, as it may be shown
    rest = _without_host(shown)
    parts = [unquote(part) for part in rest.split("/") if part]
    if parts and parts[0] in _NOT_MODELS:
        raise BadValue(f"{shown} is {_NOT_MODELS[parts[0]]}, not a model", _HINT)
    if parts[:1] == ["models"] and len(parts) > 2:
        parts = parts[1:]
    if len(parts) < 2:
        hint = _HINT + (f" `localknobs search {parts[0].split(':')[0]}` finds the name." if parts else "")
        raise BadValue(f"{shown or '(nothing)'} names no repository on the hub", hint)
    organisation, (name, ending), inside = parts[0], _split_ending(parts[1]), parts[2:]
    found_revision = ""
    if len(inside) >= 2 and inside[0] in ("tree", "blob", "resolve", "raw"):
        length = 3 if inside[1] == "refs" and len(inside) >= 4 else 1
        found_revision, inside = "/".join(inside[1 : 1 + length]), inside[1 + length :]
    if inside and not ending:
        last, ending = _split_ending(inside[-1])
        inside = [*inside[:-1], last]
    if not (_NAME.fullmatch(organisation) and _NAME.fullmatch(name)) or {".", ".."} & {
        *inside,
        *found_revision.split("/"),
    }:
        raise BadValue(f"{shown} names no repository on the hub", _HINT)
    quant, path = "", "/".join(inside)
    if ending.lower().endswith(".gguf") and not path:
        path = ending
    elif _REVISION.fullmatch(ending) and not quant_in(ending):
        found_revision = ending
    else:
        quant = ending.upper()
    return Spec(f"{organisation}/{name}", quant, path, revision or found_revision or "main")


def _split_ending(text: str) -> tuple[str, str]:
    """Split `name:Q4_K_M` or `name@q4_k_m`."""
    found = re.fullmatch(r"([^:@]*)[:@](.+)", text)
    return (found[1], found[2]) if found else (text, "")


def _without_host(text: str) -> str:
    own = urlsplit(endpoint()).netloc.lower()
    if text.lower().startswith("hf://"):
        return text[5:]
    if "://" in text:
        address = urlsplit(text)
        host = address.netloc.lower()
        if host not in (*HOSTS, own):
            raise BadValue(
                f"{host} is not the hub", "A mirror is named by HF_ENDPOINT; other files: fetch them by hand."
            )
        return address.path
    first, slash, rest = text.partition("/")
    return rest if slash and first.lower() in (*HOSTS, own) else text
