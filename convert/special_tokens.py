"""Which tokens begin, end and separate texts, whether they are added, and the chat templates of a checkpoint.

Read as llama.cpp's converter reads them, from `tokenizer.json`, `tokenizer_config.json`, `config.json` and the
template files, so that a conversion has the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

from localknobs.convert.metadata import Sheet, read_json_if_there

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ID_KEYS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "sep": "seperator_token_id",
    "pad": "padding_token_id", "mask": "mask_token_id", "eot": "eot_token_id", "eom": "eom_token_id",
}  # fmt: skip
"""GGUF has no key for `cls`; `seperator` is how it spells that one."""
_ADD_KEYS = ("bos", "eos", "sep")

Json = dict[str, Any]


@dataclass(slots=True)
class SpecialTokens:
    """Roles of tokens.

    Args:
        ids: Role (`bos`, `eos` ...) to token, in the order of their keys.
        added: Whether a role's token is put around a text without being asked for.
        templates: The chat template, or several with names, or None.
        flags: What the normalizer does that llama.cpp can be told: `lowercase`, `strip_accents`.
    """

    ids: dict[str, int] = field(default_factory=dict)
    added: dict[str, bool] = field(default_factory=dict)
    templates: str | list[Mapping[str, str]] | None = None
    flags: dict[str, bool] = field(default_factory=dict)

    def add_to(self, sheet: Sheet) -> None:
        """Set the keys."""
        for role, token in self.ids.items():
            if role in _ID_KEYS:
                sheet.u32(f"tokenizer.ggml.{_ID_KEYS[role]}", token)
        for role, is_added in self.added.items():
            if role in _ADD_KEYS:
                sheet.flag(f"tokenizer.ggml.add_{role}_token", is_added)
        _add_templates(sheet, self.templates)
        for flag in ("lowercase", "strip_accents"):
            if flag in self.flags:
                sheet.flag(f"tokenizer.ggml.normalizer.{flag}", self.flags[flag])


def read_special_tokens(folder: Path, tokens: int | None = None, tokenizer: Json | None = None) -> SpecialTokens:
    """Return the roles of tokens of a checkpoint.

    Args:
        folder: The checkpoint.
        tokens: How many tokens there are; roles beyond are left out. None: not checked.
        tokenizer: `tokenizer.json` when it was read already: it is large.

    Raises:
        BadFile: one of the files is no JSON.
    """
    found = SpecialTokens()
    if tokenizer is None:
        tokenizer = read_json_if_there(folder / "tokenizer.json")
    settings = read_json_if_there(folder / "tokenizer_config.json")
    _read_normalizer(tokenizer.get("normalizer"), found.flags)
    roles = [*_ROLES]
    if tokenizer:
        _Wrapping(found, settings, roles).read(tokenizer.get("post_processor"))
    ids_of_texts: dict[Any, Any] = {}
    for token in tokenizer.get("added_tokens") or ():
        ids_of_texts.setdefault(token.get("content"), token.get("id"))
    if settings:
        found.templates = read_templates(folder, settings)
        for role in roles:
            if isinstance(is_added := settings.get(f"add_{role}_token"), bool):
                found.added.setdefault(role, is_added)
            _set(found, role, ids_of_texts.get(_content(settings.get(f"{role}_token"))), tokens)
    config = read_json_if_there(folder / "config.json")
    for role in roles:
        token = config.get(f"{role}_token_id")
        if token is None and isinstance(text_config := config.get("text_config"), dict):
            token = text_config.get(f"{role}_token_id")
        _set(found, role, token, tokens)
    return found


def read_templates(folder: Path, settings: Json) -> str | list[Mapping[str, str]] | None:
    """Return the chat template, or several with their names, wherever the checkpoint keeps them."""
    beside: Any = None
    if (file := folder / "chat_template.jinja").is_file():
        beside = file.read_text(encoding="utf-8")
        if others := [*(folder / "additional_chat_templates").glob("*.jinja")]:
            named = [{"name": other.stem, "template": other.read_text(encoding="utf-8")} for other in others]
            beside = [{"name": "default", "template": beside}, *named]
    elif (file := folder / "chat_template.json").is_file():
        beside = read_json_if_there(file).get("chat_template")
    template = settings.get("chat_template", beside)
    return template if isinstance(template, str | list) else None


def _add_templates(sheet: Sheet, templates: str | list[Mapping[str, str]] | None) -> None:
    if templates is None or isinstance(templates, str):
        sheet.text("tokenizer.chat_template", templates or "")
        return
    default, names = "", []
    for choice in templates:
        name = "".join(letter if letter in ascii_letters + digits else "_" for letter in choice.get("name", ""))
        text = choice.get("template")
        if not name or text is None:
            continue
        if name == "default":
            default = text
        else:
            sheet.text(f"tokenizer.chat_template.{name}", text)
            if name not in names:
                names.append(name)
    sheet.texts("tokenizer.chat_templates", names)
    sheet.text("tokenizer.chat_template", default)


def _set(found: SpecialTokens, role: str, token: Any, tokens: int | None) -> None:
    if isinstance(token, int) and token >= 0 and role not in found.ids and (tokens is None or token < tokens):
        found.ids[role] = token


def _content(entry: Any) -> str | None:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _read_normalizer(normalizer: Any, flags: dict[str, bool]) -> None:
    if not isinstance(normalizer, dict):
        return
    kind = normalizer.get("type")
    if kind == "Lowercase":
        flags["lowercase"] = True
    elif kind == "StripAccents":
        flags["strip_accents"] = True
    elif kind == "BertNormalizer":
        flags.update({flag: normalizer[flag] for flag in ("lowercase", "strip_accents") if flag in normalizer})
    for part in normalizer.get("normalizers") or ():
        _read_normalizer(part, flags)


class _Wrapping:
    """What the post-processor puts around a text; it may also name roles that the settings leave open.

    Args:
        found: Gets whether tokens are added.
        settings: `tokenizer_config.json`; gets the roles that are found here.
        roles: Gets `eot` or `eom` when the token that ends a text is not the one the settings name.
    """

    def __init__(self, found: SpecialTokens, settings: Json, roles: list[str]) -> None:
        self._added, self._settings, self._roles = found.added, settings, roles
        self._text = {role: settings.get(f"{role}_token") for role in ("bos", "cls", "eos", "sep")}
        for role, other in (("bos", "cls"), ("eos", "sep")):
            if not self._text[role] and self._text[other] and settings:
                self._name(role, self._text[other])

    def read(self, processor: Any) -> None:
        """Take in a post-processor, or each of several."""
        if not isinstance(processor, dict):
            return
        for part in processor.get("processors", [processor]):
            kind = part.get("type")
            if kind == "ByteLevel":
                self._added.setdefault("bos", False)
                self._added.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self._added.update(bos=True, eos=True, sep=True)
                for role, other in (("cls", "bos"), ("sep", "eos")):
                    if not self._text[role] and self._settings:
                        self._name(role, part.get(role, [self._text[other]])[0])
            elif kind == "TemplateProcessing":
                self._read_template(part.get("single") or [], part.get("pair") or [])

    def _name(self, role: str, text: Any) -> None:
        self._text[role] = self._settings[f"{role}_token"] = text

    def _read_template(self, single: list[Json], pair: list[Json]) -> None:
        first = last = None
        if len(single) > 1:
            if first := _special(single[0]):
                self._begins_with(first)
            if last := _special(single[-1]):
                self._ends_with(last)
        start = 1 if first and pair and _special(pair[0]) == first else 0
        stop = -1 if last and pair and _special(pair[-1]) == last else None
        self._read_separator(pair[start:stop], last)

    def _begins_with(self, first: str) -> None:
        if not self._settings:
            self._text["bos"] = first
        elif first not in (self._text["bos"], self._text["cls"]):
            for role in ("bos", "cls"):
                if not self._text[role]:
                    self._name(role, first)
        self._added["bos"] = first in (self._text["bos"], self._text["cls"])

    def _ends_with(self, last: str) -> None:
        if not self._settings:
            self._text["eos"] = last
        elif last != self._text["eos"]:
            for role in ("eot", "eom"):
                if role not in self._roles:
                    self._roles.append(role)
                    self._settings[f"{role}_token"] = self._text["eos"]
                    break
            self._name("eos", last)
        self._added["eos"] = True

    def _read_separator(self, pair: list[Json], last: str | None) -> None:
        """Of a template for two texts: whether a token stands between them."""
        if len(pair) < 3 or _sequence(pair[0]) != "A" or _sequence(pair[-1]) != "B":
            return
        between, ends = pair[1:-1], (self._text["sep"], self._text["eos"])
        found = (_special(between[0]) in ends and _special(between[0]) is not None and not last) or (
            len(between) == 2 and _special(between[1]) is not None and _special(between[1]) in ends
        )
        self._added["sep"] = found
        if found and not self._text["sep"] and self._settings:
            self._settings["sep_token"] = self._text["eos"]


def _special(piece: Json) -> str | None:
    return (piece.get("SpecialToken") or {}).get("id")


def _sequence(piece: Json) -> str | None:
    return (piece.get("Sequence") or {}).get("id")
