"""A report of `localknobs eval` in the terminal: its tables, and quality against size drawn with characters."""

from __future__ import annotations

from localknobs.cli.output import heading, table, wrapped
from localknobs.evaluate.chart_text import drawn
from localknobs.evaluate.pareto import chart_of
from localknobs.evaluate.results import Report
from localknobs.evaluate.tables import tables_of
from localknobs.units import time_text


def print_report(report: Report, vram_bytes: int) -> None:
    """Print every table, and the picture where it shows something."""
    for at, part in enumerate(tables_of(report)):
        if at:
            print(f"\n{heading(part.title)}")
        print(table(part.headings, part.rows, right=range(1, len(part.headings)), whole=(0,)))
        for sentence in part.about:
            print(wrapped(sentence, "  "))
    if (chart := chart_of(report, vram_bytes)) and (picture := drawn(chart)):
        print(f"\n{heading('Quality against size')}\n{picture}")
    print(f"\nMeasured in {time_text(report.took_s)}; seed {report.seed}. Again: {report.command}")
