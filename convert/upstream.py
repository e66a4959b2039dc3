"""llama.cpp's own converter, for architectures that this program does not convert itself.

It is part of the source package of the installed llama-cpp-python, from which it is taken when the user asks
for it, and it runs in a process of its own with torch and transformers. No program code that a checkpoint
brings is ever run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from localknobs.convert.checkpoint import WeightSource
from localknobs.convert.metadata import read_json_if_there
from localknobs.errors import BadFile, HubFailure, LocalknobsError, MissingExtra, NotFound, Unsupported
from localknobs.hub.offline import refuse_offline
from localknobs.jobs import Advanced, Job, Started, Wrote, partial_file
from localknobs.paths import cache_folder, user_path

SCRIPT = "convert_hf_to_gguf.py"
SOURCE_VARIABLE = "LOCALKNOBS_LLAMA_CPP"
"""Names a folder with llama.cpp's source, to be used instead of a download."""
CHECKSUMS = {"0.3.36": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"}
"""SHA-256 of the source packages whose converter may be run, by version of llama-cpp-python."""
_PARTS = (SCRIPT, "conversion/", "gguf-py/", "models/templates/", "LICENSE")
_LOOK_S = 0.2
"""How often the growing file is looked at."""
_GET_IT = "Add --get-converter to download it (77 MB, once), or set LOCALKNOBS_LLAMA_CPP to a folder with its source."


def installed_version() -> str:
    """Return the version of llama-cpp-python, empty when there is none."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return ""


def converter_folder() -> Path:
    """Return where the converter of the installed version is kept once it was downloaded."""
    return cache_folder() / "llama.cpp" / installed_version()


def find_converter(reason: str, *, download: bool = False) -> Path:
    """Return llama.cpp's converter, ready to run.

    Args:
        reason: Why it is needed, for the error.
        download: Whether it may be downloaded.

    Raises:
        Unsupported: it is not here, and nobody asked to download it.
        MissingExtra: torch or transformers, which it needs, are not installed.
    """
    given = os.environ.get(SOURCE_VARIABLE)
    script = (user_path(given) if given else converter_folder()) / SCRIPT
    if not script.is_file():
        if given:
            raise NotFound(
                f"{SOURCE_VARIABLE} names {given}, which has no {SCRIPT}", "Name a folder of llama.cpp's source."
            )
        if not download:
            raise Unsupported(f"This needs llama.cpp's own converter: {reason}", _GET_IT)
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise MissingExtra(
            f"llama.cpp's own converter needs {' and '.join(missing)}: {reason}",
            "Install the extra `train`: pip install 'localknobs[train]'.",
        )
    if not script.is_file():
        download_converter(script.parent)
    return script


def download_converter(folder: Path) -> None:
    """Download the source package of the installed llama-cpp-python and keep its converter.

    Raises:
        Unsupported: its checksum is not known here.
        HubFailure: it could not be downloaded, or offline work was asked for.
        BadFile: it is another file than the one whose checksum is known.
    """
    wanted = installed_version()
    if wanted not in CHECKSUMS:
        raise Unsupported(
            f"The converter of llama-cpp-python {wanted or '(not installed)'} has no known checksum",
            f"Install one of these versions: {', '.join(CHECKSUMS)}; or set {SOURCE_VARIABLE}.",
        )
    refuse_offline("Downloading llama.cpp's converter")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as room:
        package = _download(wanted, Path(room))
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        if digest != CHECKSUMS[wanted]:
            raise BadFile(
                f"{package.name} is not the file that is known: its SHA-256 is {digest}", "Nothing of it was run."
            )
        unpacked = Path(room) / "unpacked"
        _unpack(package, unpacked)
        os.replace(unpacked, folder)


def _download(wanted: str, room: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--no-binary", "llama-cpp-python", "--dest", str(room), f"llama-cpp-python=={wanted}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = [*room.glob("*.tar.gz")]
    if done.returncode or not packages:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise HubFailure(
            f"The source package of llama-cpp-python {wanted} could not be downloaded: {lines[-1]}",
            f"Check the connection, or set {SOURCE_VARIABLE} to a folder with llama.cpp's source.",
        )
    return packages[0]


def _unpack(package: Path, folder: Path) -> None:
    """Take the converter out of the package, and nothing else."""
    with tarfile.open(package) as archive:
        for member in archive:
            _, found, inner = member.name.partition("/vendor/llama.cpp/")
            if found and inner.startswith(_PARTS):
                member.name = inner
                archive.extract(member, folder, filter="data")
    if not (folder / SCRIPT).is_file():
        raise BadFile(f"{package.name} has no {SCRIPT}", f"Set {SOURCE_VARIABLE} to a folder with llama.cpp's source.")


def run_converter(script: Path, source: WeightSource, output: Path, outtype: str, name: str | None) -> Job[None]:
    """Run the converter in a process of its own.

    Yields:
        The bytes written so far, and the file.

    Raises:
        Unsupported: the checkpoint brings program code of its own, or the converter does not know it.
        LocalknobsError: the converter failed; its last lines are in the log.
    """
    refuse_own_code(source.folder)
    size_bytes = sum(source.info(tensor).size_bytes for tensor in source.names())
    yield Started("converting with llama.cpp's converter", size_bytes, "bytes")
    with partial_file(output) as beside:
        # The converter fills in `{ftype}`-like fields of the name; its own name for the file is plain.
        command = [sys.executable, str(script), str(source.folder), "--outfile", str(beside), "--outtype", outtype]
        command += ["--model-name", name] if name else []
        with tempfile.TemporaryFile() as log, _child(command, log.fileno()) as child:
            seen = 0
            while child.poll() is None:
                try:
                    child.wait(_LOOK_S)
                except subprocess.TimeoutExpired:
                    size = beside.stat().st_size if beside.exists() else 0
                    yield Advanced(size - seen)
                    seen = size
            log.seek(0)
            lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        if child.returncode or not beside.is_file():
            raise _failure(lines)
    yield Wrote(output)


@contextmanager
def _child(command: list[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that ends when this block does."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(5)
                except subprocess.TimeoutExpired:
                    child.kill()


def refuse_own_code(folder: Path) -> None:
    """Refuse a checkpoint whose files ask to run program code that comes with it.

    Raises:
        Unsupported: names the file that asks.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if read_json_if_there(folder / name).get("auto_map") and any(folder.glob("*.py")):
            raise Unsupported(
                f"{folder / name} asks to run program code that comes with the checkpoint",
                "That is never done here. Use a checkpoint of the form that transformers has built in.",
            )


def _failure(lines: list[str]) -> LocalknobsError:
    last = lines[-1].strip() if lines else "it gave no reason"
    if any("is not supported" in line for line in lines):
        error: LocalknobsError = Unsupported("llama.cpp's own converter does not know this architecture either", "")
    else:
        error = LocalknobsError(f"llama.cpp's own converter failed: {last}", "Its last lines follow.")
    error.log_tail = tuple(lines[-8:])
    return error
