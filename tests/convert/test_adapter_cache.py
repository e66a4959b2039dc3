"""Folders of peft used as adapters: made into GGUF once, found again, made anew when they changed."""

from pathlib import Path

import pytest
from tiny_adapters import save_adapter
from tiny_checkpoints import make_checkpoint

from localknobs.convert.adapter_cache import as_gguf
from localknobs.errors import NotFound, Unsupported
from localknobs.gguf_info import read_header
from localknobs.paths import cache_folder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("base") / "llama", "llama")


def test_a_folder_of_peft_is_made_into_a_file_once(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "mine", r=4, target_modules=["q_proj"])
    first = as_gguf(f"{adapter}:0.5")
    file = Path(first.removesuffix(":0.5"))
    assert first.endswith(":0.5") and file.is_relative_to(cache_folder()) and read_header(file).kind == "adapter"
    made = file.stat().st_mtime_ns
    assert as_gguf(str(adapter)) == f"{file}:1" and file.stat().st_mtime_ns == made
    assert [path.name for path in adapter.glob("*.gguf")] == [], "nothing is written into the user's folder"
    save_adapter(llama, adapter, r=2, target_modules=["q_proj"])
    assert as_gguf(str(adapter)) != f"{file}:1"


def test_files_names_and_folders_with_a_file_stay_as_they_are(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "mine", r=4, target_modules=["q_proj"])
    (adapter / "mine.gguf").write_bytes(b"GGUF")
    for text in (f"{adapter}:0.5", "some.gguf:2", "org/name", str(tmp_path)):
        assert as_gguf(text) == text


def test_a_base_that_is_not_here_is_named(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "mine", r=4, target_modules=["q_proj"])
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace(str(llama), "some/base"))
    with pytest.raises(NotFound, match="some/base, which is not on this machine"):
        as_gguf(str(adapter))


def test_what_no_file_can_hold_is_refused(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "mine", r=4, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(Unsupported, match="DoRA"):
        as_gguf(str(adapter))
    assert not list(cache_folder().glob("adapters/*"))
