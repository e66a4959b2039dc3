"""Twenty windows of text through one context: sinks against none, on the built-in model."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import REPOSITORY

pytestmark = pytest.mark.bench
WINDOW, WINDOWS = 256, 20
WAYS: dict[str, dict[str, Any]] = {
    "4 sinks, shift": {"context_full": "sinks"},
    "4 sinks, reread": {"context_full": "sinks", "drop_by": "reread"},
    "no sinks, shift": {"context_full": "sinks", "n_sink": 0},
    "least attended": {"context_full": "attended"},
    "middle": {"context_full": "middle"},
}


def new_stories(count: int) -> str:
    sys.path.insert(0, str(REPOSITORY / "models" / "recipe"))
    try:
        from stories import story_turn
    finally:
        sys.path.pop(0)
    rng = random.Random(770_001)
    return "\n\n".join("\n".join(story_turn(rng)) for _ in range(count))


def test_twenty_windows_stream_through_sinks(built_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tokens_file = tmp_path / "tokens.json"
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom localknobs.engine.tokens import tokens_of\n"
        "print(json.dumps(tokens_of(Path(sys.argv[1]), [(sys.stdin.read(), False)])[0]))"
    )
    text = new_stories(120)
    done = subprocess.run(
        [sys.executable, "-c", code, str(built_in)], input=text, capture_output=True, text=True, check=True
    )
    tokens = json.loads(done.stdout)
    assert len(tokens) > WINDOW * WINDOWS
    tokens_file.write_text(json.dumps(tokens[: WINDOW * WINDOWS]))
    script = str(Path(__file__).with_name("stream_text.py"))
    found = {}
    for name, way in WAYS.items():
        settings = json.dumps({"n_ctx": WINDOW, **way})
        run = subprocess.run(
            [sys.executable, script, str(built_in), settings, str(tokens_file)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-2000:]
        found[name] = json.loads(run.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{WINDOWS} windows of {WINDOW} tokens of new stories, perplexity of the second half of a window:")
        print(f"{'':18} {'last':>7} {'fresh':>7} {'ratio':>6} {'all':>6} {'drops':>6}  closed by, memory growth")
        for name, row in found.items():
            ratio = row["streamed"][-1] / row["fresh"][-1]
            mean = sum(row["streamed"]) / sum(row["fresh"])
            print(
                f"{name:18} {row['streamed'][-1]:7.2f} {row['fresh'][-1]:7.2f} {ratio:6.3f} {mean:6.3f} "
                f"{row['drops']:6}  {', '.join(row['ways'])}, {row['memory_growth_kib'] / 1024:.1f} MiB"
            )
    sinks, none = found["4 sinks, shift"], found["no sinks, shift"]
    assert sinks["streamed"][-1] < 1.05 * sinks["fresh"][-1], "the last window is within 5% of a fresh one"
    assert sum(none["streamed"]) >= sum(sinks["streamed"]), "without sinks it is worse or equal"
    assert all(row["memory_growth_kib"] < 8 * 1024 for row in found.values()), "memory is flat"
