"""`localknobs doctor`: what this machine and this build of llama.cpp can do, and what mends what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict
from time import perf_counter

from localknobs import version
from localknobs.bandwidth import bandwidth
from localknobs.cli.findings import Finding, Machine, Terminal, Trial, findings
from localknobs.cli.output import clear_progress, facts, heading, print_json, show_progress, wrapped
from localknobs.engine import LoadSettings, Message, TextArrived, load
from localknobs.engine.build import Build, Device, describe_build
from localknobs.engine.probe import extra_buffers_work
from localknobs.errors import LocalknobsError
from localknobs.hardware import (
    available_memory_bytes,
    cuda_compiler,
    cxx_compiler,
    free_disk_bytes,
    graphics_cards,
    logical_cores,
    nvidia_without_driver,
    physical_cores,
    processor_features,
    processor_name,
    total_memory_bytes,
)
from localknobs.paths import built_in_model, data_folder, models_folder
from localknobs.terminal_text import printable
from localknobs.units import size_text

_TRIAL_TOKENS = 32


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--measure", action="store_true", help="measure memory and disk again, as on a quiet machine")


def run(options: Namespace) -> int:
    """Look, try, and print the verdicts; 1 when the engine does not work."""
    show_progress("looking at the machine")
    machine, terminal = look_at_machine(measure=options.measure), look_at_terminal()
    build: Build | None = None
    show_progress("asking llama.cpp")
    try:
        build = describe_build()
        show_progress("trying the built-in model")
        trial = _try_built_in()
    except LocalknobsError as error:
        trial = _failed(error)
    clear_progress()
    verdicts = findings(machine, build, trial, terminal)
    if options.json:
        print_json(
            {
                "localknobs": version(),
                "machine": {**asdict(machine), "features": sorted(machine.features)},
                "llama_cpp": {**asdict(build), "gpu_backends": build.gpu_backends} if build else None,
                "trial": asdict(trial),
                "terminal": asdict(terminal),
                "findings": [asdict(verdict) for verdict in verdicts],
            }
        )
    else:
        _print_report(machine, build, trial, terminal)
        _print_verdicts(verdicts)
        for line in trial.log[-8:]:
            print(f"  log: {printable(line)}")
    return 1 if trial.error else 0


def look_at_machine(*, measure: bool = False) -> Machine:
    """Gather the facts about this machine.

    Args:
        measure: Whether its speeds are measured although they are known.
    """
    home, models = data_folder(), models_folder()
    there = next(place for place in (home, *home.parents) if place.exists())
    speeds = bandwidth(again=measure)
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        processor=processor_name(),
        features=processor_features(),
        cores=logical_cores(),
        physical_cores=physical_cores(),
        memory_bytes=total_memory_bytes(),
        free_bytes=available_memory_bytes(),
        cards=tuple(graphics_cards()),
        nvidia_without_driver=nvidia_without_driver(),
        cxx=cxx_compiler() or "",
        cmake=shutil.which("cmake") or "",
        nvcc=cuda_compiler() or "",
        models_folder=models,
        free_disk_bytes=free_disk_bytes(models),
        home=home,
        home_writable=there.is_dir() and os.access(there, os.W_OK),
        memory_bytes_per_s=speeds.memory,
        disk_bytes_per_s=speeds.disk,
    )


def look_at_terminal() -> Terminal:
    """Gather the facts about the terminal, as far as the environment tells them."""
    kind = os.environ.get("TERM", "")
    colours = 16
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        colours = 2**24
    elif kind in ("", "dumb") or os.environ.get("NO_COLOR"):
        colours = 0
    elif "256color" in kind:
        colours = 256
    size = shutil.get_terminal_size()
    is_terminal = sys.stdout.isatty()
    return Terminal(is_terminal, kind, sys.stdout.encoding or "unknown", colours, size.columns, size.lines)


def _try_built_in() -> Trial:
    """Load the built-in model in a worker and write a few tokens."""
    began = perf_counter()
    with load(LoadSettings(model=built_in_model(), n_ctx=512, threads=1)) as engine:
        took = perf_counter() - began
        question = [Message(role="user", content="What is a token?")]
        written = ""
        for event in engine.stream(question, {"temp": 0.0, "n_predict": _TRIAL_TOKENS}):
            if isinstance(event, TextArrived):
                written += event.text
        stats, notes = engine.stats, engine.info.notes
    error = "" if written.strip() else "it loads, but writes nothing"
    return Trial(took, stats.generated_tokens, stats.tokens_per_s, notes, extra_buffers_work(), error)


def _failed(error: LocalknobsError) -> Trial:
    return Trial(error=str(error), log=error.log_tail)


def _print_report(machine: Machine, build: Build | None, trial: Trial, terminal: Terminal) -> None:
    print(heading("This machine"))
    print(facts(_machine_facts(machine)))
    if build:
        print("\n" + heading("llama.cpp"))
        print(facts(_build_facts(build, trial)))
    print("\n" + heading("Terminal"))
    print(facts(_terminal_facts(terminal)))


def _machine_facts(machine: Machine) -> Iterator[tuple[str, object]]:
    yield "system", f"{machine.system}, Python {machine.python}, localknobs {version()}"
    yield "processor", machine.processor
    yield "cores", f"{machine.physical_cores} usable, {machine.cores} with hardware threads"
    yield "memory", f"{size_text(machine.free_bytes)} free of {size_text(machine.memory_bytes)}"
    if machine.memory_bytes_per_s:
        yield "memory speed", f"{machine.memory_bytes_per_s / 1e9:.1f} GB/s, read by {machine.physical_cores} cores"
    if machine.disk_bytes_per_s:
        yield "disk speed", f"{machine.disk_bytes_per_s / 1e9:.1f} GB/s"
    for card in machine.cards:
        yield "graphics card", card.name + (f", {size_text(card.memory_bytes)}" if card.memory_bytes else "")
    if not machine.cards:
        yield "graphics card", "none found"
    yield "C++ compiler", machine.cxx or "not found"
    yield "cmake", machine.cmake or "not found"
    yield "nvcc (CUDA)", machine.nvcc or "not found"
    yield "models folder", f"{machine.models_folder}, {size_text(machine.free_disk_bytes)} free"


def _build_facts(build: Build, trial: Trial) -> Iterator[tuple[str, object]]:
    yield "llama-cpp-python", build.version
    yield "backends", ", ".join(build.backends)
    for device in build.devices:
        yield "device", _device_text(device)
    yield "GPU offload", "yes, " + ", ".join(build.gpu_backends) if build.gpu_backends else "no"
    yield "RPC", "yes" if build.rpc else "no"
    yield "memory mapping", "yes" if build.mmap else "no"
    yield "features", build.system_info.removesuffix(" |").replace(" = 1", "").replace(" |", ",")
    if trial.error:
        yield "built-in model", "FAILED"
        return
    yield "extra CPU buffers", "work" if trial.extra_buffers else "crash here, not used"
    speed = f"{trial.tokens} tokens at {trial.tokens_per_s:,.0f} tokens/s on one thread"
    yield "built-in model", f"loads in {trial.took_s:.1f} s, wrote {speed}"


def _device_text(device: Device) -> str:
    memory = f", {size_text(device.free_bytes)} free of {size_text(device.memory_bytes)}" if device.memory_bytes else ""
    return f"{device.name}: {device.description}{memory}"


def _terminal_facts(terminal: Terminal) -> Iterator[tuple[str, object]]:
    if not terminal.is_terminal:
        yield "output", "not a terminal"
        return
    colours = {0: "none", 2**24: "16 million"}.get(terminal.colours, str(terminal.colours))
    yield "kind", terminal.kind or "not stated"
    yield "size", f"{terminal.columns}x{terminal.lines}"
    yield "colours", colours
    yield "encoding", terminal.encoding


def _print_verdicts(verdicts: list[Finding]) -> None:
    print("\n" + heading("Verdict"))
    if not verdicts:
        print("All is fine.")
    for verdict in verdicts:
        print(wrapped(printable(verdict.text), "  ", f"{verdict.level}: "))
        for command in verdict.commands:
            print(f"    {command}")
