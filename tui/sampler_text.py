"""How the sampler view writes its lines: stages with what they left, candidates with bars before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from localknobs.engine.view import Candidate, SamplerView, Stage
from localknobs.terminal_text import printable

TOKEN_WIDTH = 12
BAR_WIDTH = 5
_EIGHTHS = " ▏▎▍▌▋▊▉█"
LEVELS: Sequence[tuple[float, str, str]] = (
    (0.9, "", "≥ 90%"),
    (0.6, "on $success 25%", "≥ 60%"),
    (0.3, "on $warning 35%", "≥ 30%"),
    (0.1, "on $error 35%", "≥ 10%"),
    (0.0, "bold on $error 70%", "below"),
)
"""Confidence from which on a level holds, its style, and what the legend calls it."""
ENTROPY_LEVELS: Sequence[tuple[float, str, str]] = (
    (4.0, "bold on $error 70%", "≥ 4 bits"),
    (2.5, "on $error 35%", "≥ 2.5"),
    (1.5, "on $warning 35%", "≥ 1.5"),
    (0.5, "on $success 25%", "≥ 0.5"),
    (0.0, "", "below"),
)
"""The same for entropy."""


def level_style(kind: str, confidence: float, entropy: float) -> str:
    """Return the style of a token; none for one whose scores are not known."""
    if confidence < 0:
        return ""
    levels, value = (LEVELS, confidence) if kind == "confidence" else (ENTROPY_LEVELS, entropy)
    return next(style for low, style, _ in levels if value >= low)


def token_text(candidate: Candidate) -> str:
    """Return a token on one line, its spaces seen."""
    if candidate.ends:
        return "(the end)"
    text = candidate.text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return printable(text) or "?"


def percent(share: float) -> str:
    """Return a probability in at most five letters."""
    return "<.1%" if 0 < share < 0.001 else f"{share:.1%}" if share < 0.9995 else "100%"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """Return a bar in eighths of a letter; something that is not zero is seen."""
    eighths = max(round(share * width * 8), share > 0)
    whole, rest = divmod(int(eighths), 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)


def stage_line(stage: Stage, theme: Mapping[str, str]) -> Text:
    """Return a stage: its name, the candidates left, and how much probability it removed, or else moved."""
    if not stage.active:
        return Text(f"{stage.label:<11}     off", "dim")
    name = stage.label if stage.chance == 1 else f"{stage.label} at {stage.chance:.0%}"
    text = Text(f"{name:<11}")
    text.append(f"{stage.after:>8,} ", "bold")
    # What truncation removes goes to the others: there both numbers are the same.
    sign, share = ("−", stage.removed) if stage.after < stage.before else ("↔", stage.moved)
    text.append(bar(share, 3), theme["error" if sign == "−" else "secondary"])
    text.append(f"{sign}{percent(share):>5}")
    return text


def candidate_line(view: SamplerView, one: Candidate, theme: Mapping[str, str]) -> Text:
    """Return a candidate: its text, its probability before the chain, and after it or what removed it."""
    drawn = one.token == view.drawn
    text = Text(f"{'▸' if drawn else ' '}{token_text(one):<{TOKEN_WIDTH}.{TOKEN_WIDTH}} ", "bold" if drawn else "")
    text.append(bar(one.before), "dim")
    text.append(f"{percent(one.before):>6} ", "not bold")
    if one.after > 0:
        text.append(bar(one.after), theme["accent"])
        text.append(f"{percent(one.after):>6}", "not bold")
    else:
        taken = view.removed_by(one)
        text.append(f"✗ {taken.label if taken else ''}", theme["error"])
    return text


def heading(view: SamplerView) -> str:
    """Return which token it is, and how sure the model was."""
    first, beyond = view.places
    what = "next token"
    if view.drawn is not None:
        drawn = next(token_text(one) for one in view.candidates if one.token == view.drawn)
        what = f"token {view.place + 1} of {beyond}: {drawn}"
    kept = "" if view.exact else f" · from the likeliest scores, {view.seen:.1%} of all"
    older = f" · from token {first + 1} on" if first else ""
    return f"{what} · entropy {view.entropy:.2f} bits{kept}{older}"


def legend(kind: str) -> list[tuple[str, str]]:
    """Return (text, style) pairs that explain the colours."""
    name = "Sure of each token:" if kind == "confidence" else "Open at each token:"
    levels = LEVELS if kind == "confidence" else ENTROPY_LEVELS
    pairs = [(f"{name} ", "")]
    for _, style, label in levels:
        pairs += [(f" {label} ", style), (" ", "")]
    return pairs
