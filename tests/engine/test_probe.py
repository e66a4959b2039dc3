"""The two-token probe on a machine whose extra CPU buffers crash: played by a worker that aborts there."""

from __future__ import annotations

import json
import sys
import textwrap

import pytest
from engine_helpers import ask

from localknobs.engine import probe
from localknobs.engine.process import WorkerProcess
from localknobs.errors import EngineDied

# Ends as llama.cpp does where AMX faults: at the first computation, if the extra buffers are in use.
CRASHING_WORKER = """
    import os, sys
    from localknobs.engine import llama, worker

    loaded = llama.LoadedModel.__init__
    decode = llama.LoadedModel.decode

    def load(self, settings, context_size, threads, use_extra_bufts, on_progress):
        self.extra = use_extra_bufts
        with open({record!r}, "a") as file:
            file.write(f"{{use_extra_bufts}}\\n")
        loaded(self, settings, context_size, threads, use_extra_bufts, on_progress)

    def crash(self, tokens):
        if {always} or self.extra:
            os.kill(os.getpid(), {number})
        return decode(self, tokens)

    llama.LoadedModel.__init__, llama.LoadedModel.decode = load, crash
    worker.main()
"""


@pytest.fixture
def crashing(monkeypatch, tmp_path):
    """Let workers crash at the probe; return `crashing(always, number)` and the loads that were tried."""

    def install(always: bool = False, number: str = "11"):
        record = tmp_path / "loads.txt"
        record.write_text("")
        script = textwrap.dedent(CRASHING_WORKER).format(record=str(record), always=always, number=number)
        start = WorkerProcess.__init__
        monkeypatch.setattr(WorkerProcess, "__init__", lambda self: start(self, (sys.executable, "-c", script)))
        return lambda: record.read_text().split()

    return install


def test_a_crash_at_the_probe_loads_again_without_and_says_so(alphabet_model, open_engine, crashing, home):
    loads = crashing()
    engine = open_engine(alphabet_model)
    assert loads() == ["True", "False"]
    assert any("extra CPU buffers" in note for note in engine.info.notes)
    assert ask(engine, "x", {"temp": 0.0}).text == "yz"


def test_it_is_remembered_for_this_machine_and_build(alphabet_model, open_engine, crashing, home):
    loads = crashing()
    open_engine(alphabet_model)
    assert not probe.extra_buffers_work()
    engine = open_engine(alphabet_model)
    assert loads() == ["True", "False", "False"]
    assert ask(engine, "x", {"temp": 0.0}).text == "yz"
    stored = json.loads((home / "cache" / "extra_buffers.json").read_text())
    assert len(stored["broken"]) == 1


def test_another_machine_or_build_tries_again_and_both_are_kept(monkeypatch, home):
    probe.remember_broken()
    assert not probe.extra_buffers_work()
    with monkeypatch.context() as other:
        other.setattr(probe, "version", lambda name: "99.0")
        assert probe.extra_buffers_work()
        probe.remember_broken()
    assert not probe.extra_buffers_work()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"broken": 3}', "\x00", '{"broken": [1, null]}'])
def test_a_damaged_memory_of_it_is_as_none(home, content):
    file = home / "cache" / "extra_buffers.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert probe.extra_buffers_work()
    probe.remember_broken()
    assert not probe.extra_buffers_work()


def test_a_crash_with_and_without_them_is_not_blamed_on_them(alphabet_model, open_engine, crashing):
    loads = crashing(always=True)
    with pytest.raises(EngineDied, match="SIGSEGV"):
        open_engine(alphabet_model)
    assert loads() == ["True", "False"] and probe.extra_buffers_work()


def test_a_kill_from_outside_is_not_blamed_on_them(alphabet_model, open_engine, crashing):
    loads = crashing(number="9")
    with pytest.raises(EngineDied, match="SIGKILL"):
        open_engine(alphabet_model)
    assert loads() == ["True"] and probe.extra_buffers_work()


@pytest.mark.parametrize("wish", [True, False])
def test_who_says_what_he_wants_gets_that(alphabet_model, open_engine, crashing, wish):
    loads = crashing()
    if wish:
        with pytest.raises(EngineDied):
            open_engine(alphabet_model, use_extra_bufts=True)
    else:
        open_engine(alphabet_model, use_extra_bufts=False)
    assert loads() == [str(wish)]
