"""Writes docs/knobs.md and docs/cli.md from the rows, the cards and the program's own help.

`python tests/guards/generated_docs.py --write` (make docs); a test fails when they are stale.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from localknobs.cli.main import VERBS
from localknobs.knobs import ALL_KNOBS, KNOBS, Knob
from localknobs.knobs.levers import LEVERS
from localknobs.presets import NOT_SAVED, presets

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTE = "<!-- Written by `make docs`; change the rows or the program, not this page. -->\n"


def pages() -> dict[str, str]:
    """Return file name to content of every generated page."""
    return {"knobs.md": knobs_page(), "cli.md": cli_page()}


def knobs_page() -> str:
    """Return the page of all knobs and levers."""
    parts = [
        NOTE,
        "# Knobs\n",
        "Every knob there is, by lever. A knob's name is llama.cpp's own; it is also the key in a preset, and"
        " `localknobs knobs NAME` explains it in the terminal.\n",
    ]
    for card in LEVERS:
        parts.append(f"## {card.title}\n\n{card.summary}\n")
        parts += [f"- **{question}:** {answer}" for question, answer in card.boxes]
        parts.append(f"- **Sources:** {', '.join(card.sources)}\n")
        rows = [row for row in ALL_KNOBS.values() if row.lever == card.lever]
        for group in dict.fromkeys(row.group for row in rows):
            parts.append(f"### {card.title}: {group}\n")
            parts.append(_table([row for row in rows if row.group == group]))
    parts.append("## Presets\n")
    parts.append(
        "A preset sets every sampling knob but those of one run"
        f" ({', '.join(f'`{name}`' for name in NOT_SAVED)}), and each truncation that it does not name is off."
        " `model` appears when the file recommends values of its own. Your own are TOML files (`/preset save NAME`).\n"
    )
    parts.append("| preset | temperature | top-p | when |\n| --- | --- | --- | --- |")
    for preset in presets().values():
        if preset.source == "shipped":
            values = " | ".join(KNOBS[name].show(preset.values[name]) for name in ("temp", "top_p"))
            parts.append(f"| `{preset.name}` | {values} | {preset.help} |")
    return "\n".join(parts) + "\n"


def _table(rows: list[Knob]) -> str:
    lines = [
        "| knob | flags | what it does | range | default | takes effect | cost | fails | source |",
        "| --- " * 9 + "|",
    ]
    for row in rows:
        default = row.show(row.default) if row.default not in ("", ()) else "none"
        reason = f" ({row.default_reason})" if row.default_reason else ""
        flags = " ".join(f"`{flag}`" for flag in row.flags)
        cells = [
            f"`{row.name}`", flags, row.help, row.range_text() + (f" ({row.unit})" if row.unit else ""),
            f"`{default}`{reason}", row.applies, row.cost, row.fails or "-", row.source,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", "\\n") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """Return the page of the command line: the help of every verb, as it is printed."""
    parts = [NOTE, "# The command line\n", "What `--help` prints, for the program and for each verb.\n"]
    for arguments in ([], *([verb] for verb in VERBS)):
        parts.append(f"## localknobs {' '.join(arguments)}".rstrip() + "\n")
        parts.append(f"```text\n{_help_of(arguments)}```\n")
    return "\n".join(parts)


def _help_of(arguments: list[str]) -> str:
    # One width and no colour, whatever terminal this runs in; home folders must not show up in a page.
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    command = [sys.executable, "-m", "localknobs", *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def main() -> int:
    """Write the pages, or say which are stale."""
    stale = [name for name, text in pages().items() if not _same(DOCS / name, text)]
    if "--write" in sys.argv[1:]:
        DOCS.mkdir(exist_ok=True)
        for name in stale:
            (DOCS / name).write_text(pages()[name], encoding="utf-8")
    elif stale:
        print(f"stale: {', '.join(stale)}. Run: make docs", file=sys.stderr)
        return 1
    return 0


def _same(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
