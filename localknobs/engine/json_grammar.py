"""From a JSON schema to a grammar, by llama.cpp's own converter; only the worker imports this.

The schema may come from a stranger's program: what would grow without bound, or fetch something, is refused first.
"""

from __future__ import annotations

import json
import re
from typing import Any

from localknobs.errors import BadValue

MOST_CHARACTERS = 65_536
"""Longest schema, and a quarter of the longest grammar."""
MOST_REPEATED = 512
"""Largest minimum or maximum of items or characters: the grammar spells each of them out."""
DEEPEST = 64
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_QUANTIFIER = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")


def grammar_of(schema: Any) -> str:
    """Return the GBNF grammar of the JSON texts that a schema allows.

    Raises:
        BadValue: it is no schema that can be made into a grammar, or too large a one.
    """
    if not isinstance(schema, dict):
        raise BadValue("The JSON schema is no object", 'Give one, such as {"type": "object"}.')
    _check(schema, 0)
    text = json.dumps(schema)
    if len(text) > MOST_CHARACTERS:
        raise BadValue(f"The JSON schema has {len(text):,} characters", f"At most {MOST_CHARACTERS:,} are taken.")
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        grammar = str(json_schema_to_gbnf(text))
    except Exception as error:  # assertions, look-ups, recursion: it answers a wrong schema with any of them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadValue(f"The JSON schema cannot be made into a grammar: {reason}", _ADVICE) from None
    if len(grammar) > 4 * MOST_CHARACTERS:
        raise BadValue("The JSON schema makes too large a grammar", "Use smaller counts of items and characters.")
    return grammar


_ADVICE = "Types, properties, items, enum, const, anyOf, allOf, local $ref, patterns with ^ and $ are understood."


def _check(part: Any, depth: int) -> None:
    """Refuse what the converter would follow without end."""
    if depth > DEEPEST:
        raise BadValue("The JSON schema is nested too deep", f"At most {DEEPEST} levels are taken.")
    if isinstance(part, list):
        for one in part:
            _check(one, depth + 1)
    if not isinstance(part, dict):
        return
    for name, value in part.items():
        if name == "$ref" and not (isinstance(value, str) and value.startswith("#/")):
            raise BadValue(f"The JSON schema refers to {value!r}", "Only references into itself (#/...) are followed.")
        counts = [value] if name in _COUNTS else []
        if name == "pattern" and isinstance(value, str):
            counts = [int(number[:9]) for found in _QUANTIFIER.findall(value) for number in found if number]
        for count in counts:
            if type(count) is int and not 0 <= count <= MOST_REPEATED:
                raise BadValue(f"The JSON schema counts to {count:,} ({name})", f"At most {MOST_REPEATED} are taken.")
        _check(value, depth + 1)
