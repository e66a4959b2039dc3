"""A knob is one row, and every reader reads it: flag, docs, presets, engine, panel."""

import ast
import dataclasses
import subprocess
import sys

import pytest
from repository import REPOSITORY

from localknobs.engine import LoadSettings
from localknobs.knobs import KNOBS, knobs_of
from localknobs.presets import NOT_SAVED, preset

ROWS = list(KNOBS.values())


@pytest.fixture(scope="module")
def chat_help() -> str:
    command = [sys.executable, "-m", "localknobs", "chat", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_flag_with_its_range_in_the_help(row, chat_help):
    for flag in row.flags:
        assert f" {flag} " in chat_help or f" {flag}, " in chat_help, flag
    assert " ".join(row.help.split()[:6]) in chat_help
    assert row.is_switch or " ".join(row.range_text().split()[:3]) in chat_help


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_in_the_docs(row):
    (line,) = [
        line
        for line in (REPOSITORY / "docs" / "knobs.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{row.name}` |")
    ]
    assert row.help in line and all(f"`{flag}`" in line for flag in row.flags)


def test_every_sampling_row_is_kept_in_a_preset_or_belongs_to_one_run():
    names = {row.name for row in knobs_of("sampling")}
    assert set(preset("default").values) | set(NOT_SAVED) == names
    assert not set(preset("default").values) & set(NOT_SAVED)


def test_every_loading_row_is_a_field_of_the_settings_with_the_same_default():
    fields = {field.name: field.default for field in dataclasses.fields(LoadSettings)}
    rows = {row.name: row.default for row in knobs_of("loading")}
    assert {name: fields[name] for name in rows if name in fields} == rows
    assert set(fields) - set(rows) == {"model", "use_extra_bufts"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_used_by_the_engine(row):
    used = set()
    for file in (REPOSITORY / "localknobs" / "engine").glob("*.py"):
        if file.name == "settings.py":
            continue  # declares the fields and uses none
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                used.add(node.attr)
    assert row.name in used


async def test_every_row_is_in_the_panel_once():
    from textual.app import App

    from localknobs.knobs import defaults
    from localknobs.tui.widgets.knob_panel import KnobPanel
    from localknobs.tui.widgets.knob_row import KnobRow

    class PanelApp(App[None]):
        def compose(self):
            yield KnobPanel({**defaults("sampling"), **defaults("loading")})

    app = PanelApp()
    async with app.run_test(size=(60, 60)):
        shown = [row.row.name for row in app.query(KnobRow)]
    assert sorted(shown) == sorted(KNOBS)
