"""How a byte-level tokenizer cuts text before it merges, read from its own rules, and llama.cpp's name for that.

llama.cpp knows a set of cuts by name only. The rules in `tokenizer.json` are brought into one form and looked
up; a tokenizer that llama.cpp's converter knows by its fingerprint keeps the name that converter gives it.
Whether the name is right is not believed but proved, by comparing tokens (`token_proof.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from localknobs.convert.known_tokenizers import FINGERPRINT_DIGITS, NAME_OF_FINGERPRINT

FINGERPRINT_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 "
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ "
    "------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? "
    "'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
"""The text over whose tokens llama.cpp's converter takes its fingerprint."""

_CONTRACTIONS = "<contractions>"  # 's, 't, 're ... in either case
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TAIL_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{{0}}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{{0}}"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = _CASED.replace("{0}", f"{_CONTRACTIONS}?") + rf"|\p{{N}}{{1,3}}|{_TAIL_SLASH}"
_TEKKEN = _CASED.replace("{0}", "") + rf"|\p{{N}}|{_TAIL_SLASH}"
_THOUSANDS = r"\d{1,3}(?=(?:\d{3})*\b)"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Rules = tuple[str, ...]

_NAMES: dict[Rules, tuple[str, ...]] = {
    (_GPT2,): ("gpt-2",),
    ("digits", _GPT2): ("smollm", "starcoder", "refact", "command-r"),
    (r"\p{N}", _GPT2): ("smollm", "starcoder", "refact", "command-r"),
    (_LLAMA3,): ("dbrx", "llama-bpe"),
    (_LLAMA3, "ignore merges"): ("llama-bpe",),
    (_QWEN2,): ("qwen2",),
    (_QWEN35,): ("qwen35",),
    (_GPT4O,): ("gpt-4o",),
    (_TEKKEN,): ("tekken",),
    (_TEKKEN, "ignore merges"): ("tekken",),
    (_THOUSANDS, _GPT4O): ("tiny_aya",),
    (r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3): ("deepseek-v3",),
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"): ("deepseek-coder",),
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", "digits"): ("deepseek-coder",),
}
"""Rules to the names that stand for them, the likeliest first."""

EVERY_NAME = (
    "gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "gpt-4o", "tekken", "tiny_aya", "deepseek-v3",
    "deepseek-coder", "deepseek-llm", "falcon", "poro-chat", "viking", "chameleon", "kimi-k2", "superbpe",
    "bailingmoe", "seed-coder", "exaone-moe", "youtu", "jais-2", "laguna", "minicpm5", "ufakzeka", "afmoe",
    "spark2_5", "granite-embed-multi-97m", "default",
)  # fmt: skip
"""One name for each set of rules that llama.cpp has, to try on a tokenizer whose rules are in no list."""


def rules_of(tokenizer: dict[str, Any]) -> Rules:
    """Return how a byte-level tokenizer cuts, in one form for all ways of writing it.

    Args:
        tokenizer: `tokenizer.json`.
    """
    found: list[str] = []
    _read(tokenizer.get("pre_tokenizer"), found)
    if (tokenizer.get("model") or {}).get("ignore_merges"):
        found.append("ignore merges")
    return tuple(found)


def names_for(rules: Rules, fingerprint: str = "", preferred: Sequence[str] = ()) -> list[str]:
    """Return the names to try, the likeliest first; empty when nothing is known.

    Args:
        rules: Of `rules_of`.
        fingerprint: Of `fingerprint_of`; a known one decides.
        preferred: Names that this family of models goes by, where the rules leave a choice.
    """
    known = NAME_OF_FINGERPRINT.get(fingerprint[:FINGERPRINT_DIGITS])
    by_rules = _NAMES.get(rules) or _NAMES.get(tuple(rule for rule in rules if rule != "ignore merges")) or ()
    likely = [name for name in preferred if name in by_rules]
    return [*dict.fromkeys([known, *likely, *by_rules] if known else [*likely, *by_rules])]


def fingerprint_of(token_ids: Sequence[int]) -> str:
    """Return the fingerprint of a tokenizer from its tokens of `FINGERPRINT_TEXT`, special ones included."""
    import hashlib  # 20 ms, which the proof has and the beginning of a conversion has not

    return hashlib.sha256(str(list(token_ids)).encode()).hexdigest()


def described(rules: Rules) -> str:
    """Return the rules on one line, for an error."""
    return " then ".join(rules) if rules else "none"


def _read(step: Any, found: list[str]) -> None:
    if not isinstance(step, dict):
        return
    kind = step.get("type")
    if kind == "Sequence":
        for part in step.get("pretokenizers") or ():
            _read(part, found)
    elif kind == "Split":
        pattern = step.get("pattern") or {}
        text = _one_form(pattern["Regex"]) if "Regex" in pattern else re.escape(str(pattern.get("String", "")))
        if step.get("behavior") != "Isolated" and not (step.get("behavior") == "Removed" and step.get("invert")):
            text = f"{step.get('behavior')}:{text}"
        found.append(text)
    elif kind == "Digits":
        found.append("digits" if step.get("individual_digits") else r"\p{N}+")
    elif kind == "ByteLevel":
        if step.get("add_prefix_space"):
            found.append("space before")
        if step.get("use_regex", True):
            found.append(_GPT2)
    else:
        found.append(str(kind))


def _one_form(pattern: str) -> str:
    """Return a pattern with the contractions, which are written in several ways, in one."""
    cases = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    ways = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:'s|'t|'re|'ve|'d|'ll|'m)", "'(?i:[sdmt]|ll|ve|re)", f"(?:{cases})")
    for way in ways:
        pattern = pattern.replace(way, _CONTRACTIONS)
    return pattern.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")
