"""What is loaded when: by module name, in a process of its own, since a clock would only guess."""

import subprocess
import sys

import pytest

HEAVY = {
    "llama_cpp", "numpy", "gguf", "torch", "transformers", "peft", "textual", "rich", "huggingface_hub", "jinja2",
    "prompt_toolkit", "tomli_w", "matplotlib", "jsonschema", "uvicorn",
}  # fmt: skip
SLOW_TO_IMPORT = {"argparse", "asyncio", "dataclasses", "importlib.metadata", "json", "re", "subprocess", "typing"}
"""Of the standard library, what `--help` has no need of: 3 to 30 ms each."""


def loaded_by(program: str) -> set[str]:
    """Return the modules a program has loaded when it ends, beyond those of an empty one."""
    ending = "\nimport sys; print(*sys.modules, file=sys.stderr)"
    found = []
    for text in (program, ""):
        done = subprocess.run([sys.executable, "-c", text + ending], capture_output=True, text=True, check=True)
        found.append(set(done.stderr.split()))
    return found[0] - found[1]


def run_verb(*arguments: str) -> str:
    return f"from localknobs.cli.main import run; assert run({list(arguments)!r}) == 0"


def tops(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_help_loads_nothing_it_does_not_print():
    loaded = loaded_by(run_verb("--help"))
    assert not tops(loaded) & HEAVY
    assert not loaded & SLOW_TO_IMPORT
    assert {module for module in loaded if module.startswith("localknobs")} == {
        "localknobs", "localknobs.cli", "localknobs.cli.main",
    }  # fmt: skip


@pytest.mark.parametrize(
    "program",
    [
        "import localknobs.cli",
        "import localknobs.engine",
        "import localknobs.engine.client",
        "import localknobs.library, localknobs.presets, localknobs.hardware, localknobs.conversations",
        "from localknobs.library import installed_models; installed_models()",
        "import localknobs.tui, localknobs.convert, localknobs.models",
        run_verb("--version"),
        run_verb("ls"),
        run_verb("show", "built-in"),
        run_verb("knobs"),
        run_verb("knobs", "temp"),
        run_verb("eval", "--help"),
        run_verb("serve", "--help"),
        "from localknobs.cli import chat, repl, tui",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(program):
    assert not tops(loaded_by(program)) & HEAVY


def test_the_screens_load_no_llama_cpp():
    loaded = tops(loaded_by("import localknobs.tui.app"))
    assert "textual" in loaded, "the check sees what is loaded"
    assert not loaded & {"llama_cpp", "numpy", "gguf", "torch", "transformers", "huggingface_hub", "prompt_toolkit"}


@pytest.mark.parametrize(
    ("program", "unneeded"),
    [
        ("import localknobs.library.names", {"localknobs.library.removal", "localknobs.library.scan"}),
        ("from localknobs.engine import tokens", {"localknobs.engine.events", "localknobs.knobs"}),
        ("import localknobs.convert.own_tokenizer", {"numpy", "localknobs.convert.tensors"}),
        ("import localknobs.cli.convert", {"localknobs.library.scan", "localknobs.knobs"}),
    ],
)
def test_what_waits_for_its_first_use_is_not_loaded_with_the_rest(program, unneeded):
    assert not loaded_by(program) & unneeded


def test_the_engine_loads_the_binding_of_llama_cpp_and_nothing_around_it():
    loaded = loaded_by("from localknobs.engine.binding import lib, libggml; assert lib.llama_max_devices() > 0")
    assert {name for name in loaded if name.startswith("llama_cpp")} >= {"llama_cpp.llama_cpp", "llama_cpp._ggml"}
    assert not loaded & {"llama_cpp", "llama_cpp.llama", "llama_cpp.llama_chat_format", "numpy", "jinja2"}


def test_the_whole_package_can_be_imported_after_the_binding():
    program = (
        "from localknobs.engine.binding import lib; import llama_cpp; "
        "assert llama_cpp.llama_cpp is lib and llama_cpp.Llama and llama_cpp.llama_decode is lib.llama_decode"
    )
    assert "llama_cpp.llama" in loaded_by(program)
