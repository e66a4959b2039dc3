"""Find models on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from localknobs.hub.client import client, failure, headers_for
from localknobs.hub.offline import refuse_offline
from localknobs.hub.repository import licence_of
from localknobs.hub.spec import endpoint

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

Sort = Literal["downloads", "likes", "updated", "size"]
SORTS: tuple[str, ...] = get_args(Sort)
_SORTED_BY_THE_HUB = {"downloads": "downloads", "likes": "likes", "updated": "lastModified", "size": "downloads"}
_ASKED = ("downloads", "gated", "gguf", "lastModified", "likes", "private", "safetensors", "tags", "usedStorage")
MOST = 1000
"""Most that are found at once: a page of the hub's."""
_POOL = 200
"""Repositories among which the largest are looked for: the hub does not sort by size."""


@dataclass(frozen=True, slots=True)
class Found:
    """A repository on the hub.

    Args:
        repo: `org/name`.
        downloads: Downloads in the last 30 days.
        likes: Likes.
        updated: Day of its last change, `2026-11-24`; empty when unknown.
        size_bytes: Bytes of all its files, every quantization of a GGUF repository among them; 0 when unknown.
        parameters: Values in the model; 0 when unknown.
        architecture: llama.cpp's name of the architecture, of GGUF repositories; empty when unknown.
        context_tokens: Tokens it was trained for, of GGUF repositories; 0 when unknown.
        gated: Whether its authors want consent.
        private: Whether it is private.
        licence: Its licence; empty when it names none.
        formats: `gguf`, `safetensors`.
    """

    repo: str
    downloads: int = 0
    likes: int = 0
    updated: str = ""
    size_bytes: int = 0
    parameters: int = 0
    architecture: str = ""
    context_tokens: int = 0
    gated: bool = False
    private: bool = False
    licence: str = ""
    formats: tuple[str, ...] = ()


def search(text: str, *, sort: Sort = "downloads", limit: int = 20, format_: str = "") -> list[Found]:
    """Return the repositories whose name holds a text and that hold GGUF files or safetensors.

    Args:
        text: What to look for; empty for the most popular of all.
        sort: What comes first; `size` sorts the 200 most downloaded.
        limit: How many, 1 to 1,000.
        format_: `gguf` or `safetensors`; empty for both.

    Raises:
        Offline: offline work is asked for.
        HubFailure: the hub cannot be reached.
    """
    refuse_offline("search")
    found: dict[str, Found] = {}
    try:
        for name in [format_] if format_ else ["gguf", "safetensors"]:
            for info in _listed(text, name, _SORTED_BY_THE_HUB[sort], _POOL if sort == "size" else min(limit, MOST)):
                found.setdefault(info.id, _found(info))
    except Exception as error:  # the library's own, those of the connection
        raise failure(error, f"models named {text!r}") from None
    keys = {
        "downloads": lambda one: one.downloads, "likes": lambda one: one.likes, "updated": lambda one: one.updated,
        "size": lambda one: one.size_bytes,
    }  # fmt: skip
    return sorted(found.values(), key=keys[sort], reverse=True)[:limit]


def _listed(text: str, format_: str, sort: str, limit: int) -> Iterator[ModelInfo]:
    """Ask for one page; not by `HfApi.list_models`, which asks a hub that is not there for half a minute."""
    from huggingface_hub import ModelInfo

    url = f"{endpoint()}/api/models"
    asked: dict[str, str | int | list[str]] = {"filter": format_, "sort": sort, "limit": limit, "expand": [*_ASKED]}
    response = client().get(url, params={**asked, **({"search": text} if text else {})}, headers=headers_for(url))
    response.raise_for_status()
    for entry in response.json():
        yield ModelInfo(**entry)  # type: ignore[no-untyped-call]


def _found(info: ModelInfo) -> Found:
    tags = info.tags or []
    gguf = info.gguf or {}
    return Found(
        repo=info.id,
        downloads=info.downloads or 0,
        likes=info.likes or 0,
        updated=f"{info.last_modified:%Y-%m-%d}" if info.last_modified else "",
        size_bytes=info.used_storage or 0,
        parameters=int(gguf.get("total") or (info.safetensors.total if info.safetensors else 0) or 0),
        architecture=str(gguf.get("architecture") or ""),
        context_tokens=int(gguf.get("context_length") or 0),
        gated=bool(info.gated),
        private=bool(info.private),
        licence=licence_of(tags),
        formats=tuple(name for name in ("gguf", "safetensors") if name in tags),
    )
