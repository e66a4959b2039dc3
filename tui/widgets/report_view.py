"""A report of `eval` on the screen: the models in a table, and below it one part of the numbers after another."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import ScrollableContainer, Vertical
from textual.widgets import Static, Tab, Tabs

from localknobs.evaluate.chart_text import drawn
from localknobs.evaluate.page import command_of, facts_of
from localknobs.evaluate.pareto import chart_of
from localknobs.evaluate.results import ModelResult, Report
from localknobs.evaluate.tables import Table, needle_texts, tables_of
from localknobs.terminal_text import cells, printable, shortened_in_the_middle
from localknobs.tui.widgets.list_table import ListTable
from localknobs.tui.widgets.plot import Line, Picture, Plot

LINE_COLOURS = ("foreground", "primary", "warning", "success", "error", "accent")
"""Theme variables of the curves; more models than these share them."""
LARGEST_RATIO = 20.0
"""From this ratio of the largest to the smallest height on, a curve's axis is logarithmic."""
WIDEST_CELL = 56
CHART_LEFT = 12
"""Columns that the axis of the drawn chart takes."""
PARTS = {
    "kld": "KL divergence", "tasks": "Tasks", "forgetting": "Forgetting", "needle": "Needles",
    "position": "By place", "speed": "Speed",
}  # fmt: skip
CHART, ABOUT = "Quality against size", "About"


@dataclass(frozen=True, slots=True)
class Shown:
    """The report that is shown.

    Args:
        report: What was measured.
        name: What `localknobs reports` calls it; empty where it could not be kept.
        vram_bytes: Memory of a card, a line in the chart.
    """

    report: Report
    name: str = ""
    vram_bytes: int = 0


class ReportView(Vertical):
    """Shows one report; `show` takes it."""

    DEFAULT_CSS = """
    ReportView {
        & #models { height: auto; max-height: 45%; }
        & Tabs { margin-top: 1; }
        & #part { height: 1fr; padding: 0 1; }
        & #part:focus { background: $boost; }
        & #words { width: auto; height: auto; }
        & Plot { padding: 0 1; }
    }
    .-narrow ReportView Tabs { margin-top: 0; }
    """

    def __init__(self) -> None:
        super().__init__(id="report")
        self._shown: Shown | None = None
        self._parts: list[str] = []

    def compose(self) -> ComposeResult:
        """Lay out the table of models, the parts' names, and the part that is shown."""
        yield ListTable("", id="models")
        yield Tabs(id="parts")
        yield Plot(id="curve")
        with ScrollableContainer(id="part"):
            yield Static(id="words", markup=False)

    def show(self, shown: Shown) -> None:
        """Show a report, from its first part on."""
        self._shown = shown
        tables = tables_of(shown.report)
        self._fill(tables[0], shown)
        self._parts = [CHART] if chart_of(shown.report, shown.vram_bytes) else []
        self._parts += [PARTS[suite] for suite in dict.fromkeys(table.suites for table in tables[1:])]
        self._parts.append(ABOUT)
        tabs = self.query_one(Tabs)
        tabs.clear()
        for name in self._parts:
            tabs.add_tab(Tab(name))
        self._show_part(self._parts[0])

    def _fill(self, overview: Table, shown: Shown) -> None:
        table = self.query_one("#models", ListTable)
        table.clear(columns=True)
        overview = _narrower(overview)
        table.add_columns(*overview.headings)
        chart = chart_of(shown.report, shown.vram_bytes)
        best = {point.label for point in chart.points if point.is_best} if chart else set()
        for row in overview.rows:
            name = shortened_in_the_middle(printable(row[0]), 40)
            first = Text(name, "bold" if row[0] in best else "")
            table.add_row(first, *(Text(cell, justify="right") for cell in row[1:]))

    def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        """Show another part."""
        event.stop()
        self._show_part(str(event.tab.label))

    def on_resize(self) -> None:
        """The chart is drawn as large as there is room."""
        active = self.query_one(Tabs).active_tab
        if active:
            self.call_after_refresh(self._show_part, str(active.label))

    def _show_part(self, name: str) -> None:
        if self._shown is None or name not in self._parts:
            return
        report = self._shown.report
        self.query_one(Plot).display = name == PARTS["position"]
        if name == PARTS["position"]:
            self.query_one(Plot).picture = _by_place(report)
        if name == CHART:
            words = [self._chart(), self._wrapped("Capital letters: no other model is both as small and as good.")]
        elif name == ABOUT:
            words = self._about()
        else:
            suite = next(suite for suite, part in PARTS.items() if part == name)
            tables = [table for table in tables_of(report)[1:] if table.suites == suite]
            words = self._heat(report) if suite == "needle" else [_laid_out(table) for table in tables]
            words += [self._wrapped(sentence) for table in tables for sentence in table.about]
            if report.command:
                words.append(self._wrapped(f"Printed by: {command_of(report, suite)}"))
        self.query_one("#words", Static).update(Text("\n").join(words))
        self.query_one("#part").scroll_home(animate=False)

    def _wrapped(self, text: str) -> Text:
        """Return words broken to the width there is, dimmed: they say how the numbers are read."""
        width = max(40, self.query_one("#part").size.width - 4)
        lines = Text(printable(text), "dim").wrap(self.app.console, width, overflow="fold")
        return Text("\n").join(lines)

    # ---- the parts ----------------------------------------------------------------------------

    def _chart(self) -> Text:
        """Return quality against size: what no other model beats stands out, and the card's memory is a line."""
        assert self._shown is not None
        chart = chart_of(self._shown.report, self._shown.vram_bytes)
        assert chart is not None
        room = self.query_one("#part").size
        legend = len(chart.points) + bool(chart.vram_bytes) + 4
        width = max(30, min(90, room.width - CHART_LEFT - 4))
        text = Text(no_wrap=True)
        for line in drawn(chart, width, max(6, min(16, room.height - legend))).splitlines():
            axis, bar, inside = line.partition("┤")
            if not bar:
                text.append(f"{line}\n")
                continue
            text.append(f"{axis}{bar}", "dim")
            for letter in inside:
                style = "bold green" if letter.isupper() else "yellow" if letter.islower() else ""
                text.append(letter, "red" if letter == "¦" else style)
            text.append("\n")
        return text

    def _about(self) -> list[Text]:
        assert self._shown is not None
        report = self._shown.report
        lines = [
            facts_of(report),
            *tables_of(report)[0].about,
            *report.notes,
            "",
            "Measured by:",
            f"  {report.command}",
        ]
        if self._shown.name:
            lines += ["", "Printed again by:", f"  localknobs reports {self._shown.name}"]
        return [self._wrapped(line) for line in lines]

    def _heat(self, report: Report) -> list[Text]:
        """Return one grid of needles a model: the more were found, the greener."""
        theme = self.app.theme_variables
        colours = [theme["error-muted"], theme["warning-muted"], theme["success-muted"]]
        return [_heat_map(model, colours) for model in report.models if model.needle]


def _narrower(overview: Table) -> Table:
    """Return the table of models without words that are the same in every row."""
    memory = overview.headings.index("memory")
    said = {row[memory].partition(" at ")[2] for row in overview.rows}
    headings = tuple("bits" if heading == "bits/weight" else heading for heading in overview.headings)
    rows = overview.rows
    if len(said) == 1:  # the part About says at how many tokens
        rows = tuple((*row[:memory], row[memory].partition(" at ")[0], *row[memory + 1 :]) for row in rows)
    return replace(overview, headings=headings, rows=rows)


def _laid_out(table: Table) -> Text:
    """Return a table in columns; cells of many words stand below it, each on a line of its own."""
    wordy = [at for at in range(len(table.headings)) if any(len(row[at]) > WIDEST_CELL for row in table.rows)]
    kept = [at for at in range(len(table.headings)) if at not in wordy]
    rows = [[printable(cell) for cell in row] for row in (table.headings, *table.rows)]
    widths = {at: max(cells(row[at]) for row in rows) for at in kept}
    text = Text(f"{printable(table.title)}\n", "bold", no_wrap=True)
    for number, row in enumerate(rows):
        parts = []
        for at in kept:
            gap = " " * (widths[at] - cells(row[at]))
            parts.append(gap + row[at] if at else row[at] + gap)
        text.append("  ".join(parts).rstrip() + "\n", "" if number else "dim")
    for row in rows[1:] if wordy else ():
        text.append("\n" + "\n".join(f"{row[0]}: {row[at]}" for at in wordy) + "\n")
    return text


def _heat_map(model: ModelResult, colours: list[str]) -> Text:
    assert model.needle is not None
    found = {(cell.depth, cell.length): cell for cell in model.needle.cells}
    lengths = sorted({length for _, length in found})
    share = model.needle.share
    text = Text(no_wrap=True)
    text.append(f"{printable(model.label)}", "bold")
    text.append(f": {share.right} of {share.count} found ({share.low:.0%} to {share.high:.0%})\n")
    text.append("depth \\ tokens" + "".join(f"{length:>15,}" for length in lengths) + "\n", "dim")
    for depth in sorted({depth for depth, _ in found}):
        text.append(f"{depth:>14.0%} ", "dim")
        for length in lengths:
            cell = found.get((depth, length))
            if cell is None:
                text.append(" " * 15)
                continue
            colour = colours[min(2, int(3 * cell.share.value))]
            shown = " ".join(needle_texts(cell))
            text.append(f"{shown:^14}", Style(bgcolor=colour))
            text.append(" ")
        text.append("\n")
    return text


def _by_place(report: Report) -> Picture:
    """Return perplexity by place in the context, a curve a model."""
    models = [model for model in report.models if model.position]
    lines = tuple(
        Line(
            shortened_in_the_middle(printable(model.label), 24),
            [((one.begin + one.end) / 2, one.perplexity.value) for one in model.position],
            LINE_COLOURS[at % len(LINE_COLOURS)],
        )
        for at, model in enumerate(models)
    )
    heights = [height for line in lines for _, height in line.points]
    low, high = min(heights), max(heights)
    return Picture(
        title="Perplexity by place in the context", shade=(), shade_name="", lines=lines, x_name="tokens",
        y_name="ppl", log=high > LARGEST_RATIO * low > 0, low=low,
    )  # fmt: skip
