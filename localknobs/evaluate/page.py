"""A report as one HTML file that needs nothing else: pictures inside, no script, nothing from outside."""

from __future__ import annotations

import shlex
from html import escape

from localknobs.evaluate.picture import HEAT, svg_panels
from localknobs.evaluate.results import ModelResult, Report
from localknobs.evaluate.tables import Table, needle_texts, tables_of
from localknobs.units import time_text

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --card: #fff; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.words { white-space: normal; min-width: 22rem; text-align: left; }
p.about { color: var(--dim); margin: .3rem 0; font-size: .9rem; max-width: 60rem; }
code { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
figure { margin: .5rem 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .5rem;
  max-width: 44rem; }
figure svg { width: 100%; height: auto; display: block; }
.heat td { color: #111; text-align: center; min-width: 4.5rem; } .heat td:first-child { color: inherit; }
"""


def page_of(report: Report, vram_bytes: int = 0) -> str:
    """Return the page."""
    names = ", ".join(model.label for model in report.models)
    parts = [
        "<!doctype html>", '<html lang="en">', '<head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(names)}: measured</title><style>{_STYLE}</style></head><body>",
        f"<h1>What changed: {escape(names)}</h1>",
        f'<p class="about">{escape(facts_of(report))}</p>',
        f"<p><code>{escape(report.command)}</code></p>",
    ]  # fmt: skip
    parts += [f'<p class="about">{escape(note)}</p>' for note in report.notes]
    tables = tables_of(report)
    parts += _table(tables[0], report)
    for title, svg in svg_panels(report, vram_bytes):
        parts += [f"<h2>{escape(title)}</h2>", f"<figure>{svg}</figure>"]
    for table in tables[1:]:
        parts += _heat_maps(table, report) if table.suites == "needle" else _table(table, report)
    parts.append("</body></html>")
    return "\n".join(parts)


def facts_of(report: Report) -> str:
    """Say when, with what and how it was measured."""
    base = f" Parent: {report.base}." if report.base else ""
    return (
        f"Measured {report.made} in {time_text(report.took_s)} by localknobs {report.version} on llama-cpp-python "
        f"{report.engine}, {report.threads} threads, seed {report.seed}.{base}"
    )


def command_of(report: Report, suites: str) -> str:
    """Return a command that prints the numbers of some suites alone."""
    words = shlex.split(report.command)
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("--suite", "-o", "--output"):
            skip = True
        elif not word.startswith(("--suite=", "--output=")) and word != "--json":
            kept.append(word)
    return shlex.join([*kept, "--suite", suites, "--json"])


def _table(table: Table, report: Report) -> list[str]:
    parts = [f"<h2>{escape(table.title)}</h2>", '<div class="scroll"><table>']
    parts.append("<tr>" + "".join(f"<th>{escape(heading)}</th>" for heading in table.headings) + "</tr>")
    for row in table.rows:
        cells = (f"<td{' class=words' if len(cell) > 60 else ''}>{escape(cell)}</td>" for cell in row)
        parts.append("<tr>" + "".join(cells) + "</tr>")
    parts.append("</table></div>")
    return [*parts, *_about(table, report)]


def _about(table: Table, report: Report) -> list[str]:
    parts = [f'<p class="about">{escape(sentence)}</p>' for sentence in table.about]
    if table.suites and report.command:
        parts.append(f'<p class="about">Printed by <code>{escape(command_of(report, table.suites))}</code></p>')
    return parts


def _heat_maps(table: Table, report: Report) -> list[str]:
    parts = [f"<h2>{escape(table.title)}</h2>"]
    for model in report.models:
        if model.needle:
            parts += _heat_map(model)
    return [*parts, *_about(table, report)]


def _heat_map(model: ModelResult) -> list[str]:
    assert model.needle is not None
    cells = {(cell.depth, cell.length): cell for cell in model.needle.cells}
    lengths = sorted({length for _, length in cells})
    share = model.needle.share
    parts = [
        f"<p><b>{escape(model.label)}</b>: {share.right} of {share.count} found, {share.value:.0%} "
        f"({share.low:.0%} to {share.high:.0%})</p>",
        '<div class="scroll"><table class="heat"><tr><th>depth \\ tokens</th>',
        "".join(f"<th>{length:,}</th>" for length in lengths) + "</tr>",
    ]
    for depth in sorted({depth for depth, _ in cells}):
        row = f"<tr><td>{depth:.0%}</td>"
        for length in lengths:
            cell = cells.get((depth, length))
            if cell is None:
                row += "<td></td>"
                continue
            right, *below = needle_texts(cell)
            small = "".join(f"<br><small>{text}</small>" for text in below)
            row += f'<td style="background:{_heat(cell.share.value)}">{right}{small}</td>'
        parts.append(row + "</tr>")
    return [*parts, "</table></div>"]


def _heat(share: float) -> str:
    """Return the colour of a share, as the picture has it."""
    low, high = (HEAT[0], HEAT[1]) if share < 0.5 else (HEAT[1], HEAT[2])
    part = 2 * share if share < 0.5 else 2 * share - 1
    mixed = (round(int(low[at : at + 2], 16) * (1 - part) + int(high[at : at + 2], 16) * part) for at in (1, 3, 5))
    return "#" + "".join(f"{value:02x}" for value in mixed)
