"""What the documents say of the program is what the program is."""

import re
import subprocess
import tomllib

import pytest
from generated_docs import DOCS, pages
from repository import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(("name", "text"), pages().items(), ids=list(pages()))
def test_generated_pages_are_fresh(name, text):
    assert (DOCS / name).read_text(encoding="utf-8") == text, "run: make docs"


def test_the_version_is_written_once():
    from localknobs import version

    written = PROJECT["project"]["version"]
    assert version() == written
    quoted = re.compile(rf"""["'v ]{re.escape(written)}["'\s]""")
    suffixes = (".py", ".toml", ".md", ".tcss", ".yml", ".yaml")
    holders = [
        name
        for name in tracked()
        if name.endswith(suffixes)
        and (REPOSITORY / name).is_file()
        and quoted.search((REPOSITORY / name).read_text(encoding="utf-8"))
        and name != "CHANGELOG.md"
    ]
    assert holders == ["pyproject.toml"]


def tree_of_the_readme() -> dict[str, str]:
    """Return path to description for each line of the file tree in README.md."""
    block = README.split("## Files", 1)[1].split("```", 2)[1]
    found, folders = {}, []
    for line in block.splitlines()[1:]:
        named = re.match(r"( *)(\S+) +(.+)", line)
        assert named, f"no name and description: {line!r}"
        depth = len(named[1]) // 2
        folders = [*folders[:depth], named[2].rstrip("/")]
        found["/".join(folders)] = named[3]
    return found


def test_every_path_in_the_readmes_tree_exists():
    for path in tree_of_the_readme():
        assert (REPOSITORY / path).exists(), path


def test_the_readmes_tree_names_every_top_level_entry_and_every_part_of_the_core():
    tree = set(tree_of_the_readme())
    files = [name for name in tracked() if (REPOSITORY / name).exists()]
    top = {name.split("/")[0] for name in files} - {".gitignore"}
    core = {"/".join(name.split("/")[:2]) for name in files if name.startswith("localknobs/")}
    core -= {"localknobs/__init__.py", "localknobs/__main__.py", "localknobs/py.typed"}
    missing = sorted(
        path for path in top | core if path not in tree and not any(t.startswith(path + "/") for t in tree)
    )
    assert not missing


def test_what_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (REPOSITORY / link).exists(), link


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`?(?:^|[ `])make ([a-z]+)", README, re.MULTILINE))
    assert {"run", "test"} <= named <= targets
