"""The wheel holds the tree, whole and alone: setuptools drops a package that is not listed in silence."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from repository import REPOSITORY

SOURCES = {"localknobs": "localknobs", "tui": "localknobs/tui", "convert": "localknobs/convert"}
LIMIT_BYTES = 16 * 2**20
WEIGHTS = REPOSITORY / "models" / "built-in.gguf"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel offline from a copy of what belongs to it, so that the tree gets no build folder."""
    import shutil

    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        REPOSITORY, source, dirs_exist_ok=True,
        ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "run", "__pycache__"),
    )  # fmt: skip
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as content:
        yield content


def expected() -> dict[str, Path]:
    """Return place in the wheel to file of the tree."""
    files = {"localknobs/models/__init__.py": REPOSITORY / "models" / "__init__.py"}
    files["localknobs/models/built-in.gguf"] = WEIGHTS
    for folder, place in SOURCES.items():
        for file in (REPOSITORY / folder).rglob("*"):
            if file.suffix in (".py", ".tcss") or file.name == "py.typed" or file.parent.name == "data":
                files[f"{place}/{file.relative_to(REPOSITORY / folder).as_posix()}"] = file
    return files


def test_everything_of_the_tree_is_in_the_wheel_and_nothing_else(wheel):
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = set(expected())
    assert inside == wanted, f"missing: {sorted(wanted - inside)}; too much: {sorted(inside - wanted)}"


def test_it_is_byte_for_byte_the_same(wheel):
    for place, file in expected().items():
        assert wheel.read(place) == file.read_bytes(), place


def test_it_carries_the_licence_and_the_command(wheel):
    meta = [name for name in wheel.namelist() if ".dist-info/" in name]
    assert any(name.endswith("/LICENSE") for name in meta)
    (points,) = [name for name in meta if name.endswith("entry_points.txt")]
    assert "localknobs = localknobs.cli:main" in wheel.read(points).decode()


def test_the_built_in_model_is_small_enough_to_ship():
    assert WEIGHTS.stat().st_size <= LIMIT_BYTES
