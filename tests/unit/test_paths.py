"""Where things are kept, and files that are written whole or not at all."""

from pathlib import Path

import pytest

from localknobs import paths


def test_one_variable_moves_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALKNOBS_HOME", str(tmp_path))
    monkeypatch.delenv("LOCALKNOBS_MODELS", raising=False)
    for folder in (paths.config_folder(), paths.data_folder(), paths.cache_folder(), paths.models_folder()):
        assert tmp_path in folder.parents
    assert not list(tmp_path.iterdir()), "asking for a path creates nothing"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "preset.toml"
    target.write_text("old")
    with pytest.raises(RuntimeError), paths.written_whole(target) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_finished_write_replaces_the_old_file(tmp_path):
    target = tmp_path / "new" / "preset.toml"
    with paths.written_whole(target) as beside:
        beside.write_text("new")
    assert target.read_text() == "new" and list(target.parent.iterdir()) == [target]


def test_a_user_there_is_not_is_no_error(home):
    assert paths.user_path("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert paths.user_path("~/x") == paths.user_path(Path("~/x")) == home.parent / "x"
