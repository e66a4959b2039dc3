"""The Hugging Face cache: where a file of a repository lies, so that every program finds it.

`models--org--name/` with `blobs/<etag>`, `refs/<revision>` (a file with the commit) and `snapshots/<commit>/<path>`,
a link to the blob, or the file itself where links are off. What is not whole ends in `.incomplete`, which all
programs pass over. Source: huggingface_hub, file_download.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from localknobs.errors import HubFailure, LocalknobsError
from localknobs.hub.offline import is_set
from localknobs.hub.quants import Part
from localknobs.paths import written_whole


def cache_folder() -> Path:
    """Return the cache's folder: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `hub` in `HF_HOME`."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if given := os.environ.get(name):
            return _expanded(given)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(base) / "huggingface" / "hub"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))


class CachedRepository:
    """One repository's folder in the cache.

    Args:
        repo: `org/name`.
        root: The cache's folder.
    """

    def __init__(self, repo: str, root: Path | None = None) -> None:
        self.root = root or cache_folder()
        name = "models--" + repo.replace("/", "--")
        self.folder = self.root / name
        self._locks = self.root / ".locks" / name

    def blob(self, part: Part) -> Path:
        """Return where the bytes of a file lie once they are whole."""
        return self.folder / "blobs" / part.etag

    def partial(self, part: Part) -> Path:
        """Return where its bytes are gathered; another name than huggingface_hub's, whose partials begin at 0."""
        return self.folder / "blobs" / f"{part.etag}.localknobs.incomplete"

    def journal(self, part: Part) -> Path:
        """Return where it is written down which bytes are there."""
        return self.folder / "blobs" / f"{part.etag}.localknobs-journal.incomplete"

    def snapshot(self, commit: str, part: Part) -> Path:
        """Return where programs find the file."""
        return self.folder / "snapshots" / commit / part.path

    def holds(self, commit: str, part: Part) -> bool:
        """Return whether the whole file is there, under its name or as a blob that only wants a name."""
        for file in (self.blob(part), self.snapshot(commit, part)):
            with contextlib.suppress(OSError):
                if file.stat().st_size == part.size_bytes:
                    return True
        return False

    def publish(self, commit: str, part: Part, revision: str) -> Path:
        """Give a whole blob its name in a snapshot, and write down what commit the revision stands for.

        Returns:
            The file under its name.
        """
        named, blob = self.snapshot(commit, part), self.blob(part)
        named.parent.mkdir(parents=True, exist_ok=True)
        if not named.exists():
            self._name(blob, named)
        if revision != commit:
            reference = self.folder / "refs" / revision
            with contextlib.suppress(OSError):
                if reference.read_text(encoding="ascii") == commit:
                    return named
            with written_whole(reference) as beside:
                beside.write_text(commit, encoding="ascii")
        return named

    def _name(self, blob: Path, named: Path) -> None:
        if not is_set("HF_HUB_DISABLE_SYMLINKS"):
            with contextlib.suppress(FileNotFoundError):
                named.unlink()  # a link to nothing
            try:
                named.symlink_to(os.path.relpath(blob, named.parent))
                return
            except OSError as error:  # a file system, or a Windows account, that has no links
                if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                    raise
        # Without links a blob that was just fetched is moved: a second copy of it would be wasted space.
        shutil.move(blob, named)

    @contextlib.contextmanager
    def locked(self, part: Part) -> Iterator[None]:
        """Keep other programs from fetching the same file meanwhile, with huggingface_hub's own lock.

        Raises:
            HubFailure: another process is fetching it.
            LocalknobsError: the cache cannot be written to.
        """
        import filelock

        lock_file = self._locks / f"{part.etag}.lock"
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(lock_file, mode=0o664)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise HubFailure(
                f"{part.path} is being fetched by another process", "Wait for it, or end it and start again here."
            ) from None
        except NotImplementedError:  # a file system without locks; the journal's own remains
            yield
            return
        except OSError as error:
            raise LocalknobsError(
                f"The cache {self.root} cannot be written to: {error.strerror}", "Set HF_HUB_CACHE to another folder."
            ) from None
        try:
            yield
        finally:
            lock.release()
