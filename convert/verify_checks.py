"""The checks of `verify` that need no arithmetic: tokens, chat template, begin and end tokens.

Each gets what transformers made of the checkpoint (`reference.py`) and what llama.cpp made of the file
(`verify_worker.py`), as these two processes say it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localknobs.engine.templates import TemplateFailed, TemplateRenderer

CONVERSATIONS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "What is a token?"},),
    ({"role": "system", "content": "Answer briefly.\n"}, {"role": "user", "content": "  And a byte?  "}),
    (
        {"role": "user", "content": "Zażółć gęślą jaźń 👍🏽"},
        {"role": "assistant", "content": "def f():\n    return 1\n"},
        {"role": "user", "content": "Once more, please."},
    ),
)
"""One question; a system message and spaces at the ends; three turns."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Args:
        name: What was compared.
        passed: Whether it is as it should be.
        found: What was found, one line.
    """

    name: str
    passed: bool
    found: str


def check_tokens(
    texts: Sequence[tuple[str, bool]], expected: Mapping[str, Any], found: Mapping[str, Any], notes: list[str]
) -> Check:
    """Compare the tokens of texts; the first difference is shown.

    The file may agree with transformers or with the checkpoint's `tokenizer.json`: where these two differ, which some
    classes of transformers make them do, either is the model's.

    Args:
        texts: What was read, and whether special tokens in it count.
        expected: Of the checkpoint; if there is one text more than its tokens, it is that with special tokens.
        found: The file's `tokens`, perhaps of further texts too, and `spellings` of them.
        notes: Gets such a difference.
    """
    special = [expected["special_tokens"]] if len(texts) > len(expected["tokens"]) else []
    wanted = [*expected["tokens"], *special]
    own = [*expected["own_tokens"], *special] if expected["own_tokens"] else wanted
    differing = [at for at in range(len(texts)) if found["tokens"][at] != wanted[at]]
    if differing and all(found["tokens"][at] == own[at] for at in range(len(texts))):
        notes.append(
            f"{expected['tokenizer_class']} of transformers reads {len(differing)} of {len(texts)} texts differently "
            "than the checkpoint's tokenizer.json, with which the file agrees."
        )
        differing = []
    if not differing:
        return Check("tokens", True, f"{len(texts)} texts, {sum(map(len, wanted)):,} tokens: all the same")
    at = differing[0]
    shown = _difference(wanted[at], found["tokens"][at], found["spellings"])
    return Check(
        "tokens", False, f"{len(differing)} of {len(texts)} texts differ, first {texts[at][0][:30]!r}: {shown}"
    )


def _difference(expected: list[int], found: list[int], spellings: Mapping[str, str]) -> str:
    pairs = zip(expected, found, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(found)))

    def few(tokens: list[int]) -> str:
        part = tokens[same : same + 3]
        return " ".join(f"{token} {spellings[str(token)]!r}" if str(token) in spellings else str(token)
                        for token in part) or "nothing"  # fmt: skip

    return f"from token {same + 1} on the checkpoint has {few(expected)}, the file {few(found)}"


def check_template(
    expected: Mapping[str, Any], file: Mapping[str, Any], renderer: TemplateRenderer
) -> tuple[Check, list[str]]:
    """Render conversations with the file's template and compare them with transformers' texts.

    Returns:
        The check, and the texts of the file's template, empty where there is none.
    """
    name, template = "chat template", file["template"]
    if not template or not expected["has_template"]:
        has = "the file" if template else "the checkpoint"
        if template or expected["has_template"]:
            return Check(name, False, f"only {has} has one"), []
        return Check(name, True, "neither has one"), []
    texts, refused, first = [], 0, ""
    for talk, theirs in zip(CONVERSATIONS, expected["rendered"], strict=True):
        variables = {
            "messages": list(talk), "add_generation_prompt": True,
            "bos_token": file["begin_text"], "eos_token": file["end_text"],
        }  # fmt: skip
        try:
            ours = renderer.render(template, variables)
            texts.append(ours)
            if "text" not in theirs:
                first = first or f"the checkpoint's refuses {talk[0]['role']} first ({theirs['refused'][:60]})"
            elif ours != theirs["text"]:
                first = first or _first_letters(theirs["text"], ours)
        except TemplateFailed as error:
            texts.append("")
            refused += 1
            if "text" in theirs:
                first = first or f"the file's refuses what the checkpoint's renders: {error.message}"
    if first:
        return Check(name, False, first), texts
    also = f", {refused} refused by both" if refused else ""
    return Check(name, True, f"{len(texts) - refused} conversations rendered alike{also}"), texts


def _first_letters(expected: str, found: str) -> str:
    pairs = zip(expected, found, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(found)))
    wants, has = expected[same : same + 24] or "the end", found[same : same + 24] or "the end"
    return f"after {expected[max(0, same - 16) : same]!r} the checkpoint writes {wants!r}, the file {has!r}"


def check_edges(
    expected: Mapping[str, Any],
    file: Mapping[str, Any],
    rendered: Sequence[str],
    rendered_tokens: Sequence[list[int]],
    notes: list[str],
) -> Check:
    """Check that prompts begin as the checkpoint's do, once, and that every end the checkpoint knows ends the answer.

    Args:
        expected: Of the checkpoint.
        file: Of the file.
        rendered: Texts of its template.
        rendered_tokens: Their tokens, without any that llama.cpp adds.
        notes: Gets what differs but does no harm in a chat.
    """
    name, begin, wrong = "begin and end", file["begin_token"], []
    if expected["begin"] is not None and file["begin"] not in (-1, expected["begin"]):
        wrong.append(f"the begin token is {file['begin_text']!r} ({file['begin']}), should be {expected['begin']}")
    adds = expected["wrapped"][:1] == [expected["begin"]]
    if (begin >= 0) != adds:
        text = f"Plain text gets {'a' if begin >= 0 else 'no'} begin token from the file, {'one' if adds else 'none'} "
        text += "from the checkpoint's tokenizer."
        if rendered:
            notes.append(text + " Chats, which the template begins, are not concerned.")
        else:
            wrong.append(text[0].lower() + text[1:-1])
    mark = file["begin"]
    for theirs, text, tokens in zip(expected["rendered"], rendered, rendered_tokens, strict=False):
        if not text or "tokens" not in theirs:
            continue
        prompt = tokens if begin < 0 or tokens[:1] == [begin] else [begin, *tokens]  # as the engine does
        ours, wanted = _leading(prompt, mark), _leading(theirs["tokens"], expected["begin"])
        if ours == 1 and wanted == 0 and adds:
            notes.append("llama.cpp begins chats with the begin token; the checkpoint begins plain text with it only.")
            break
        if ours != wanted:
            wrong.append(f"a chat begins with {ours} begin tokens, should be {wanted}")
            break
        if ours > 1:
            notes.append(f"A chat begins with {ours} begin tokens, in the checkpoint too.")
            break
    missing = [f"{text!r} ({token})" for token, text in expected["ends"].items() if int(token) not in file["ends"]]
    if missing:
        wrong.append(f"{', '.join(missing)} should end the answer, and does not in the file")
    if wrong:
        return Check(name, False, "; ".join(wrong))
    ends = " ".join(expected["ends"].values()) or "no end token"
    return Check(name, True, f"begins with {file['begin_text'] if begin >= 0 else 'nothing added'}; ends with {ends}")


def _leading(tokens: Sequence[int], mark: int | None) -> int:
    count = 0
    while count < len(tokens) and tokens[count] == mark:
        count += 1
    return count
