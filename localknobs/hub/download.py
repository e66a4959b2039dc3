"""The download as a job: fetch what is missing, prove it by its hash, mend what is damaged, put it into the cache.

Closing the generator pauses it; a new one for the same plan goes on where it, or a killed process, was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from localknobs.errors import HubFailure, LocalknobsError
from localknobs.hub.cache import CachedRepository
from localknobs.hub.offline import refuse_offline
from localknobs.hub.partial import Partial
from localknobs.hub.plan import DownloadPlan, check_space, held_bytes
from localknobs.hub.quants import Part
from localknobs.hub.source import Changed, Source
from localknobs.hub.transfer import Throttle, Transfer, disk_refusal
from localknobs.jobs import Advanced, Job, JobEvent, Noted, Started, Wrote
from localknobs.library.fetched import remember_fetched
from localknobs.units import size_text

SECOND_LOOK = 64
"""Pieces into which a file is divided whose bytes came wrong, to fetch it again piece by piece until it is right."""
SAID_BYTES = 64 * 2**20
"""Size from which checking a file takes long enough to be shown."""
_HEX_OF_SHA256 = 64


def download(plan: DownloadPlan, beginnings: Mapping[str, bytes] | None = None) -> Job[Path]:
    """Fetch the files of a plan into the Hugging Face cache.

    Args:
        plan: What to fetch.
        beginnings: First bytes of some files, by path, that were fetched already to read their headers.

    Returns:
        The first file, under its name in the snapshot; of a checkpoint, the folder of the snapshot.

    Raises:
        Offline: offline work is asked for.
        NotFound: a file is not there any more.
        HubFailure: it cannot be fetched, the bytes are not those the hub names, or another process fetches them.
        NotEnough: the disk has too little room; what was fetched is kept.
    """
    refuse_offline(f"Fetching {plan.repo}")
    check_space(plan)
    cached, throttle = CachedRepository(plan.repo), Throttle(plan.rate_limit)
    done = sum(held_bytes(cached, plan.commit, part) for part in plan.parts)
    named: list[Path] = []
    must_say = plan.missing_bytes > 0
    try:
        for part in plan.parts:
            if must_say:
                yield Started(f"fetching {part.path}", plan.size_bytes, "bytes", done=done)
            before = held_bytes(cached, plan.commit, part)
            must_say = part.size_bytes > SAID_BYTES and before < part.size_bytes  # checking it is a stage of its own
            if not cached.holds(plan.commit, part):
                yield from _fetch(plan, part, cached, throttle, before, (beginnings or {}).get(part.path, b""))
            done += part.size_bytes - before
            named.append(cached.publish(plan.commit, part, plan.revision))
            yield Wrote(named[-1])
    except OSError as error:  # a flush, a name, a journal: what the disk refuses beside the bytes themselves
        raise disk_refusal(error, cached.folder) from None
    is_folder = any(file.kind == "checkpoint" for file in plan.files) and len(plan.parts) > 1
    return plan.folder / "snapshots" / plan.commit if is_folder or not plan.files else named[0]


def _fetch(
    plan: DownloadPlan, part: Part, cached: CachedRepository, throttle: Throttle, claimed: int, beginning: bytes
) -> Iterator[JobEvent]:
    """Fetch one file into its blob."""
    if not part.etag or not all(letter in "0123456789abcdef" for letter in part.etag):
        raise HubFailure(f"The hub names no hash of {part.path}", "Check HF_ENDPOINT.")
    with cached.locked(part):
        if cached.holds(plan.commit, part):  # another process has finished it meanwhile
            yield Advanced(part.size_bytes - claimed)
            return
        partial = _opened(cached, part, {"repo": plan.repo, "path": part.path, "etag": part.etag})
        try:
            if lost := claimed - partial.held_bytes:  # a power cut took it, or somebody wrote there
                yield Noted(_damage(lost, part), "warning")
                yield Advanced(-lost)
            if taken := partial.take_beginning(beginning):
                yield Advanced(taken)
            source = Source(plan.repo, plan.commit, part.path, part.size_bytes, partial.etags)
            yield from _gather(source, partial, throttle)
            yield from _prove(part, source, partial, throttle)
            partial.finish(cached.blob(part))
            remember_fetched(cached.blob(part))
        finally:
            partial.close()


def _opened(cached: CachedRepository, part: Part, about: dict[str, Any]) -> Partial:
    try:
        return Partial(cached.partial(part), cached.journal(part), part.size_bytes, about)
    except OSError as error:
        raise LocalknobsError(
            f"The cache {cached.root} cannot be written to: {error.strerror}", "Set HF_HUB_CACHE to another folder."
        ) from None


def _gather(source: Source, partial: Partial, throttle: Throttle) -> Iterator[JobEvent]:
    """Fetch what is missing; begin anew once if the server has another file by now."""
    try:
        yield from Transfer(source, partial, throttle).events()
    except Changed:
        held = partial.held_bytes
        yield Noted("The server has another file now: it is fetched from its beginning", "warning")
        yield Advanced(-held)
        partial.begin_anew()
        source.trusts_etags = False  # a server whose tags change all the time is believed by the hash alone
        try:
            yield from Transfer(source, partial, throttle).events()
        except Changed:
            raise HubFailure(
                f"The server's {source.name} is not the file the hub announces: it has another size",
                "Check HF_ENDPOINT; a mirror may be out of date.",
            ) from None


def _prove(part: Part, source: Source, partial: Partial, throttle: Throttle) -> Iterator[JobEvent]:
    """Compare the file with the hash the hub names; fetch again what is not right.

    Raises:
        HubFailure: the server's bytes are not those the hub names.
    """
    right, damaged = yield from _checked(part, partial)
    rounds = 0
    while damaged and not right:
        rounds += 1
        if rounds > 3:
            raise HubFailure(f"{partial.path} does not keep what is written to it", "Check the disk.")
        size = sum(map(partial.length, damaged))
        yield Noted(_damage(size, part), "warning")
        yield from _fetched_again(damaged, source, partial, throttle)
        right, damaged = yield from _checked(part, partial)
    if right:
        return
    yield Noted(f"{part.path} does not have the hash the hub names: looking for the part that came wrong", "warning")
    per_piece = -(-partial.count // SECOND_LOOK)
    for first in range(0, partial.count, per_piece):
        piece = list(range(first, min(first + per_piece, partial.count)))
        if (yield from _fetched_again(piece, source, partial, throttle)):
            right, _ = yield from _checked(part, partial)
            if right:
                return
    partial.discard()
    raise HubFailure(
        f"The server's {part.path} is not the file the hub announces: its hash is another",
        "Nothing was put into the cache. Check HF_ENDPOINT, or tell the repository's authors.",
    )


def _damage(size: int, part: Part) -> str:
    return f"{size_text(size)} of {part.path} were lost or damaged on this disk, and are fetched again"


def _fetched_again(chunks: list[int], source: Source, partial: Partial, throttle: Throttle) -> Job[bool]:
    """Fetch chunks again; return whether any is another than before."""
    partial.forget(chunks)
    yield Started("fetching again", sum(map(partial.length, chunks)), "bytes")
    transfer = Transfer(source, partial, throttle)
    yield from transfer.events()
    return transfer.differed


def _checked(part: Part, partial: Partial) -> Job[tuple[bool, list[int]]]:
    """Read the file back; return whether it has the hash the hub names, and which chunks are not as written."""
    if len(part.etag) == _HEX_OF_SHA256:
        whole = hashlib.sha256()
    else:
        whole = hashlib.sha1(b"blob %d\0" % part.size_bytes, usedforsecurity=False)  # as git names it
    damaged: list[int] = []
    if part.size_bytes > SAID_BYTES:
        yield Started(f"checking {part.path}", part.size_bytes, "bytes")
    for amount, wrong in partial.check(whole):
        damaged += wrong
        if part.size_bytes > SAID_BYTES:
            yield Advanced(amount)
    return whole.hexdigest() == part.etag, damaged
