"""Workers that die, are closed, are forgotten, or lose their parent; and what they leave behind: nothing."""

from __future__ import annotations

import gc
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from engine_helpers import ask, once, user

from localknobs.engine import Finished, LoadSettings, TextArrived, load
from localknobs.engine import process as process_module
from localknobs.engine.client import Engine
from localknobs.errors import EngineDied, LocalknobsError

GREEDY = {"temp": 0.0}
pytestmark = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks at processes in /proc")


def is_running(pid: int) -> bool:
    """Whether a process lives; one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pid_of(engine: Engine) -> int:
    return engine._worker.process.pid


# ---- death


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_worker_killed_mid_answer_is_an_error_and_the_next_answer_comes_from_a_new_one(
    endless_model, open_engine, number
):
    engine = open_engine(endless_model)
    first = pid_of(engine)
    with pytest.raises(EngineDied, match=signal.Signals(number).name) as caught:
        ask(engine, "a", GREEDY, each=once(lambda: os.kill(first, number)))
    assert any("llama" in line for line in caught.value.log_tail)
    assert ask(engine, "a", {**GREEDY, "n_predict": 4}).text == "bcde"
    assert pid_of(engine) != first and not is_running(first)


def test_a_worker_killed_between_answers_is_replaced(endless_model, open_engine):
    engine = open_engine(endless_model)
    for _ in range(3):
        engine._worker.process.kill()
        engine._worker.process.wait()
        engine.stop()
        engine.set_sampler({"temp": 1.0})  # neither is an error: there is nothing to stop or change
        assert ask(engine, "a", {**GREEDY, "n_predict": 3}).text == "bcd"


def test_a_worker_killed_while_counting_is_an_error_and_then_replaced(endless_model, open_engine):
    engine = open_engine(endless_model)
    os.kill(pid_of(engine), signal.SIGSTOP)  # it cannot answer
    killer = threading.Timer(0.2, os.kill, (pid_of(engine), signal.SIGKILL))
    killer.start()
    with pytest.raises(EngineDied):
        engine.count_tokens("abc")
    killer.join()
    assert engine.count_tokens("abc") == 4


def test_restarts_leak_neither_files_nor_threads_nor_processes(endless_model, open_engine):
    engine = open_engine(endless_model)

    def restart():
        engine._worker.process.kill()
        engine._worker.process.wait()
        ask(engine, "a", {**GREEDY, "n_predict": 1})

    def counts():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children_of(os.getpid()))

    restart()
    before = counts()
    for _ in range(4):
        restart()
    end = time.monotonic() + 10
    while counts() > before and time.monotonic() < end:
        time.sleep(0.02)  # the readers of the last dead worker end in threads of their own
    assert counts() <= before


def test_a_worker_killed_while_it_loads_is_an_error(built_in, monkeypatch):
    started = []
    original = process_module.WorkerProcess.__init__

    def recorded(self):
        original(self)
        started.append(self.process)

    monkeypatch.setattr(process_module.WorkerProcess, "__init__", recorded)
    with pytest.raises(EngineDied, match="SIGKILL"):
        load(LoadSettings(model=built_in, threads=1), lambda done: started[-1].kill())
    assert len(started) == 1 and started[0].poll() == -signal.SIGKILL


def test_a_load_is_cancelled_by_an_exception_from_the_progress_callback(built_in, monkeypatch):
    class Cancelled(Exception):
        pass

    def cancel(done):
        raise Cancelled

    before = children_of(os.getpid())
    with pytest.raises(Cancelled):
        load(LoadSettings(model=built_in, threads=1), cancel)
    assert children_of(os.getpid()) == before


def test_an_error_in_the_worker_itself_ends_it_with_its_traceback(alphabet_model, open_engine):
    engine = open_engine(alphabet_model)
    engine._worker.send({"do": "settings", "values": "none"})
    with pytest.raises(EngineDied, match="code 1") as caught:
        ask(engine, "a", GREEDY)
    assert any("Traceback" in line for line in caught.value.log_tail)
    assert ask(engine, "x", GREEDY).text == "yz"


def test_ctrl_c_in_the_terminal_does_not_reach_the_model(endless_model, open_engine):
    engine = open_engine(endless_model)
    assert os.getpgid(pid_of(engine)) != os.getpgid(0)
    answer = ask(engine, "a", {**GREEDY, "n_predict": 500}, each=once(lambda: os.kill(pid_of(engine), signal.SIGINT)))
    assert answer.reason == "length"


def test_an_interrupt_while_reading_stops_the_answer_and_the_next_is_right(endless_model, open_engine):
    engine = open_engine(endless_model)
    stream = engine.stream("a", GREEDY)
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)
    assert ask(engine, "a", {**GREEDY, "n_predict": 4}).text == "bcde"


# ---- closing


def test_close_ends_the_worker_and_may_be_called_twice(alphabet_model):
    engine = load(LoadSettings(model=alphabet_model, threads=1))
    pid = pid_of(engine)
    engine.close()
    engine.close()
    assert not is_running(pid)
    for call in (lambda: list(engine.stream("a")), lambda: engine.count_tokens("a")):
        with pytest.raises(LocalknobsError, match="closed"):
            call()
    engine.stop()
    engine.set_sampler({"temp": 1.0})


def test_closing_from_another_thread_ends_the_answer_as_stopped(endless_model):
    for _ in range(5):
        engine = load(LoadSettings(model=endless_model, threads=1))
        pid = pid_of(engine)
        closer = threading.Thread(target=engine.close)
        answer = ask(engine, "a", GREEDY, each=once(closer.start))
        closer.join()
        assert answer.reason == "stopped" and answer.text
        assert not is_running(pid)


def test_closing_while_a_new_worker_loads_leaves_none(endless_model, monkeypatch):
    engine = load(LoadSettings(model=endless_model, threads=1))
    engine._worker.kill()
    started = []
    original = process_module.WorkerProcess.__init__

    def closed_meanwhile(self):
        original(self)
        started.append(self.process)
        engine.close()

    monkeypatch.setattr(process_module.WorkerProcess, "__init__", closed_meanwhile)
    with pytest.raises(LocalknobsError, match="closed"):
        ask(engine, "a")
    assert [worker.poll() is not None for worker in started] == [True]


def test_a_stop_while_a_new_worker_loads_stops_the_answer(endless_model, open_engine, monkeypatch):
    engine = open_engine(endless_model)
    engine._worker.kill()
    original = process_module.WorkerProcess.__init__

    def stopped_meanwhile(self):
        original(self)
        engine.stop()

    monkeypatch.setattr(process_module.WorkerProcess, "__init__", stopped_meanwhile)
    assert ask(engine, "a", GREEDY).reason == "stopped"


def test_a_forgotten_engine_takes_its_worker_with_it(alphabet_model):
    engine = load(LoadSettings(model=alphabet_model, threads=1))
    pid = pid_of(engine)
    del engine
    gc.collect()
    wait_until_gone(pid)


def test_as_a_context_manager_it_closes(alphabet_model):
    with load(LoadSettings(model=alphabet_model, threads=1)) as engine:
        pid = pid_of(engine)
    assert not is_running(pid)


# ---- a parent that dies


PARENT = """
    import sys, time
    from pathlib import Path
    from localknobs.engine import LoadSettings, TextArrived, load

    engine = load(LoadSettings(model=Path(sys.argv[1]), threads=1))
    stream = engine.stream([{"role": "user", "content": "a"}], {"temp": 0.0})
    for event in stream:
        if isinstance(event, TextArrived):
            break
    print("ready", flush=True)
    if sys.argv[2] == "answering":
        for event in stream:
            pass
    elif sys.argv[2] == "idle":
        stream.close()
    time.sleep(600)
"""


@pytest.mark.parametrize("state", ["answering", "not reading", "idle"])
def test_a_worker_whose_parent_is_killed_ends_and_so_does_its_template_process(endless_model, state):
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(endless_model), state], stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout.readline() == b"ready\n"
        (worker,) = children_of(parent.pid)
        (renderer,) = children_of(worker)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_until_gone(worker)
    wait_until_gone(renderer)


# ---- what can be seen from outside


def test_nothing_is_printed_and_no_file_of_the_working_folder_is_imported(built_in, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('imported the wrong json')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported the wrong numpy')")
    script = """
        import sys
        from pathlib import Path
        from localknobs.engine import Finished, LoadSettings, load
        with load(LoadSettings(model=Path(sys.argv[1]), threads=1)) as engine:
            events = list(engine.stream([{"role": "user", "content": "Hi"}], {"n_predict": 5}))
            assert isinstance(events[-1], Finished)
            assert any("llama_model_loader" in line for line in engine.log), engine.log
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(script), str(built_in)], capture_output=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_thousand_short_answers_take_no_more_memory_than_a_hundred(alphabet_model, open_engine):
    engine = open_engine(alphabet_model)

    def resident() -> int:
        return int(Path(f"/proc/{pid_of(engine)}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def answers(count: int) -> None:
        for number in range(count):
            values = {"temp": 0.5, "repeat_penalty": 1.1, "dry_multiplier": 0.5, "seed": number}
            assert ask(engine, user(f"question {number} v"), values).stats.prompt_tokens

    answers(100)
    before = resident()
    answers(900)
    assert resident() - before < 4 * 2**20


def test_a_reader_that_is_slow_does_not_hold_the_worker_up(endless_model, open_engine):
    engine = open_engine(endless_model)
    all_said = threading.Event()

    class Watched(queue.SimpleQueue):
        def put(self, message):
            super().put(message)
            if message and message.get("event") == Finished.__name__:
                all_said.set()

    engine._worker.messages = Watched()
    stream = engine.stream("a", {**GREEDY, "n_predict": 6000})
    next(stream)
    # Nobody reads on until the worker has said all it has to say, far more than a pipe holds.
    assert all_said.wait(120)
    assert sum(len(event.text) for event in stream if isinstance(event, TextArrived)) == 6000
