"""The vocabulary of a checkpoint as GGUF has it: SentencePiece, byte-level BPE, or BPE that falls back to bytes.

Every row of the embedding gets a token: rows that the tokenizer does not use are padded. Tokens, kinds and scores
are those of llama.cpp's own converter, with one exception: for BPE with byte fallback and no `tokenizer.model`,
that converter gives all tokens one score, by which llama.cpp merges in another order than the tokenizer; here the
scores are the merges' ranks.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from localknobs.convert.checkpoint import read_json
from localknobs.convert.gguf_header import RawKey
from localknobs.convert.metadata import Sheet, read_json_if_there
from localknobs.convert.pretokenizer import (
    EVERY_NAME,
    FINGERPRINT_TEXT,
    Rules,
    described,
    fingerprint_of,
    names_for,
    rules_of,
)
from localknobs.convert.sentencepiece import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, read_pieces
from localknobs.convert.special_tokens import SpecialTokens, read_special_tokens
from localknobs.convert.token_proof import ProofProcesses, first_difference
from localknobs.errors import BadFile, NotFound, Unsupported

Json = dict[str, Any]
Flags = tuple[Mapping[str, bool], Mapping[str, bool]]
Kind = Literal["any", "bpe", "phi3"]
"""Where a family keeps its vocabulary: SentencePiece if there is one, BPE only, or as Phi-3 does."""

_LOW, _LOWER, _LOWEST = -1000.0, -10000.0, -1e6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACE = "\u2581"
_SPECIAL_TEXTS = 8
"""How many special tokens the proof looks at."""
_NOT_PROVED = "Convert with --skip-token-check to take it as it is."


@dataclass(slots=True)
class Vocabulary:
    """Tokens with all that a GGUF file says about them.

    Args:
        model: llama.cpp's kind: `llama` (SentencePiece) or `gpt2` (byte-level BPE).
        texts: One a token.
        kinds: Normal, control, byte and so on, one a token.
        special: Roles of tokens, and templates.
        scores: One a token, for `llama`.
        merges: In order, for `gpt2`.
        names: Names of the pre-tokenizer to try, the likeliest first.
        rules: The pre-tokenizer's rules, of byte-level BPE.
        space_prefix: Whether a text gets a space before it, where that is known.
        tokenizer_file: `tokenizer.json`, when there is one to compare with.
        settings: `tokenizer_config.json`.
        proved: Whether llama.cpp's tokens were compared and are the same.
    """

    model: str
    texts: list[str]
    kinds: list[int]
    special: SpecialTokens
    scores: list[float] | None = None
    merges: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=lambda: ["default"])
    rules: Rules = ()
    space_prefix: bool | None = None
    tokenizer_file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    proved: bool = False
    _lists: list[RawKey] = field(default_factory=list, repr=False, compare=False)

    def add_to(self, sheet: Sheet, flags: Flags = ({}, {})) -> None:
        """Set the keys, with the first of the names; flags go before and after them."""
        for key, value in flags[0].items():
            sheet.flag(key, value)
        sheet.text("tokenizer.ggml.model", self.model)
        sheet.text("tokenizer.ggml.pre", self.names[0])
        if not self._lists:
            self._lists.extend(self._packed())
        for packed in self._lists:
            sheet.add(packed)
        self.special.add_to(sheet)
        for key, value in flags[1].items():
            sheet.flag(key, value)

    def _packed(self) -> list[RawKey]:
        """Return the long lists as they are stored, which is once for all names and flags that are tried."""
        sheet = Sheet("")
        sheet.texts("tokenizer.ggml.tokens", self.texts)
        if self.scores is not None:
            sheet.fractions("tokenizer.ggml.scores", self.scores)
        sheet.numbers("tokenizer.ggml.token_type", self.kinds)
        sheet.texts("tokenizer.ggml.merges", self.merges)
        return sheet.keys()


def read_vocabulary(folder: Path, size: int, kind: Kind, preferred: Sequence[str] = ()) -> Vocabulary:
    """Read the vocabulary of a checkpoint.

    Args:
        folder: The checkpoint.
        size: Rows of the embedding.
        kind: Where this family keeps it.
        preferred: Names of pre-tokenizers this family goes by.

    Raises:
        NotFound: there is no tokenizer.
        BadFile: it is damaged, or has tokens beyond the embedding.
        Unsupported: it is of a kind that llama.cpp does not have.
    """
    json_file, piece_file = folder / "tokenizer.json", folder / "tokenizer.model"
    settings = read_json_if_there(folder / "tokenizer_config.json")
    pieces = piece_file.is_file() and kind != "bpe"
    if kind == "phi3" and settings.get("tokenizer_class") == "GPT2Tokenizer":
        pieces = False
    if pieces:
        found = _from_pieces(folder, size, settings, strict=kind == "phi3")
    elif json_file.is_file():
        tokenizer = read_json(json_file)
        model = tokenizer.get("model") or {}
        if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
            raise Unsupported(
                f"{json_file} is a tokenizer of the kind {model.get('type')!r}, which these models do not have",
                "Known are BPE and SentencePiece.",
            )
        read = _from_byte_fallback if model.get("byte_fallback") and not _is_byte_level(tokenizer) else _from_byte_level
        found = read(folder, size, tokenizer, settings)
        if read is _from_byte_level:
            rules = rules_of(tokenizer)
            found.names = names_for(rules, "", preferred) or ["default"]
            found.rules = rules
    else:
        raise NotFound(
            f"{folder} has no tokenizer", "Expected tokenizer.json or tokenizer.model beside the weights: fetch them."
        )
    found.tokenizer_file = json_file if json_file.is_file() else None
    found.settings = settings
    return found


def prove(
    vocabulary: Vocabulary,
    before: Sheet,
    flags: Flags,
    preferred: Sequence[str],
    processes: ProofProcesses | None = None,
) -> Vocabulary:
    """Compare llama.cpp's tokens with the tokenizer's own, settle the name of the pre-tokenizer, or refuse.

    Args:
        vocabulary: As it was read; not changed.
        before: Keys that come before the vocabulary: llama.cpp goes by architecture and name here and there.
        flags: What the family sets before and after it: `tokenizer.ggml.add_space_prefix` and such.
        preferred: Names of pre-tokenizers this family goes by.
        processes: For its `tokenizer.json`, started before; otherwise they are started here.

    Returns:
        The vocabulary with the name that was proved; without a `tokenizer.json` as it is, unproved.

    Raises:
        BadFile: the tokens differ; the message shows the first difference.
    """
    if vocabulary.tokenizer_file is None:
        return vocabulary
    if processes is None:
        with contextlib.closing(ProofProcesses(vocabulary.tokenizer_file)) as processes:
            return prove(vocabulary, before, flags, preferred, processes)
    names = vocabulary.names
    if vocabulary.model == "gpt2":
        fingerprint = fingerprint_of(processes.own.encode_wrapped(FINGERPRINT_TEXT))
        names = names_for(vocabulary.rules, fingerprint, preferred) or [*EVERY_NAME]
    first = ""
    for name in names:
        named = replace(vocabulary, names=[name], proved=True)
        difference = _difference(named, before.copy(), flags, processes)
        if difference is None:
            return named
        first = first or difference
    rules = described(vocabulary.rules)
    cuts = f" (it cuts text by: {rules})" if vocabulary.rules and len(names) == len(EVERY_NAME) else ""
    raise BadFile(f"llama.cpp would read text differently than {vocabulary.tokenizer_file}{cuts}: {first}", _NOT_PROVED)


def _difference(vocabulary: Vocabulary, sheet: Sheet, flags: Flags, processes: ProofProcesses) -> str | None:
    vocabulary.add_to(sheet, flags)
    encode = processes.own.encode
    controls = [text for text, kind in zip(vocabulary.texts, vocabulary.kinds, strict=True) if kind == CONTROL]
    spoken = [text for text in controls[:_SPECIAL_TEXTS] if encode(f"x{text}y")[1:-1] == [*encode(text)]]
    texts = [("x" + "y".join(spoken) + "z", True)] if spoken and vocabulary.model == "gpt2" else []
    return first_difference(sheet.keys(), processes, vocabulary.texts, texts)


# ---- SentencePiece -------------------------------------------------------------------------------


def _from_pieces(folder: Path, size: int, settings: Json, *, strict: bool) -> Vocabulary:
    """Read `tokenizer.model`, and tokens that were added later. `strict` believes the marks of added tokens only."""
    texts, scores, kinds = [f"[PAD{at}]" for at in range(size)], [_LOWER] * size, [UNUSED] * size
    for at, piece in enumerate(read_pieces(folder / "tokenizer.model")[:size]):
        texts[at], scores[at] = piece.text, piece.score
        kinds[at] = NORMAL if piece.kind == USER_DEFINED else piece.kind
    for text, at in read_json_if_there(folder / "added_tokens.json").items():
        if isinstance(at, int) and at < size:
            texts[at], scores[at], kinds[at] = text, _LOW, USER_DEFINED
    for at, token in _added(settings.get("added_tokens_decoder")):
        if at < size:
            texts[at], scores[at], kinds[at] = _added_piece(token, strict)
    if strict:
        for at, token in _added(read_json_if_there(folder / "tokenizer.json").get("added_tokens")):
            if at < size:
                texts[at], scores[at], kinds[at] = _added_piece(token, strict)
    return Vocabulary("llama", texts, kinds, read_special_tokens(folder, size), scores)


def _added_piece(token: Json, strict: bool) -> tuple[str, float, int]:
    text = str(token.get("content", ""))
    if token.get("special") or (not strict and looks_special(text)):
        return text, _LOW, CONTROL
    return text if strict else text.replace(_SPACE, " "), _LOW, USER_DEFINED


def _added(entries: Any) -> Iterator[tuple[int, Json]]:
    """Yield number and description of added tokens, from either of the two forms they are written in."""
    if isinstance(entries, dict):
        yield from ((int(at), token) for at, token in entries.items() if str(at).isdecimal())
    elif isinstance(entries, list):
        yield from ((int(token["id"]), token) for token in entries if isinstance(token.get("id"), int))


def looks_special(text: str) -> bool:
    """Return whether an added token is one for control by its looks: some models do not mark theirs."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))  # noqa: RUF001
        or (text.startswith("<unused") and text.endswith(">"))
    )


# ---- BPE -----------------------------------------------------------------------------------------


def _is_byte_level(tokenizer: Json) -> bool:
    decoder = tokenizer.get("decoder") or {}
    return any(part.get("type") == "ByteLevel" for part in (decoder, *(decoder.get("decoders") or ())))


def _known_tokens(folder: Path, size: int, tokenizer: Json, settings: Json) -> tuple[dict[int, str], dict[int, Json]]:
    """Return all tokens by number, and those of them that were added.

    Raises:
        BadFile: there are more than the embedding has rows.
    """
    added = dict(_added(settings.get("added_tokens_decoder")))
    added.update(_added(tokenizer.get("added_tokens")))
    texts: dict[int, str] = {at: text for text, at in tokenizer["model"]["vocab"].items()}
    texts.update({at: str(token.get("content", "")) for at, token in added.items()})
    if texts and max(texts) >= size:
        raise BadFile(
            f"{folder / 'tokenizer.json'} has tokens up to number {max(texts)}, but the embedding has {size} rows",
            "The tokenizer belongs to another model, or the embedding was not resized.",
        )
    return texts, added


def _from_byte_level(folder: Path, size: int, tokenizer: Json, settings: Json) -> Vocabulary:
    known, added = _known_tokens(folder, size, tokenizer, settings)
    texts, kinds = [], []
    for at in range(size):
        text, token = known.get(at), added.get(at)
        if text is None:
            text, kind = f"[PAD{at}]", UNUSED
        elif token is None:
            kind = NORMAL
        else:
            text = text if token.get("normalized") else _decoded(text)
            kind = CONTROL if token.get("special") or looks_special(text) else USER_DEFINED
            text = text.replace(_SPACE, " ") if kind == USER_DEFINED else text
        texts.append(text)
        kinds.append(kind)
    merges = _merges(tokenizer["model"].get("merges") or [])
    if not merges:
        raise BadFile(f"{folder / 'tokenizer.json'} has no merges", "Fetch it again.")
    return Vocabulary("gpt2", texts, kinds, read_special_tokens(folder, None, tokenizer), merges=merges)


def _merges(merges: Sequence[Any]) -> list[str]:
    """Return merges as texts of two parts; a space within a part is written as `Ġ` is, 256 further on."""
    if isinstance(merges[0] if merges else "", str):
        return list(merges)
    joined = map(" ".join, merges)
    return [
        text if text.count(" ") == 1 else " ".join(part.replace(" ", "\u0120") for part in pair)
        for text, pair in zip(joined, merges, strict=True)
    ]


def _decoded(text: str) -> str:
    """Return a token as the byte-level decoder gives it back; what that cannot decode as it is."""
    table = _byte_of_letter()
    try:
        return bytes(table[letter] for letter in text).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return text


@cache
def _byte_of_letter() -> dict[str, int]:
    """Return which byte each of the 256 letters stands for in which byte-level BPE writes bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _from_byte_fallback(folder: Path, size: int, tokenizer: Json, settings: Json) -> Vocabulary:
    """Read BPE over characters with bytes to fall back to, which llama.cpp treats as SentencePiece."""
    known, added = _known_tokens(folder, size, tokenizer, settings)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(tokenizer["model"].get("merges") or []):
        ranks.setdefault("".join(merge.split(" ", 1) if isinstance(merge, str) else merge), rank)
    texts, kinds, scores = [], [], []
    for at in range(size):
        text, token, score = known.get(at), added.get(at), _LOW
        if text is None:
            text, kind = f"[PAD{at}]", UNUSED
        elif _BYTE_TOKEN.fullmatch(text):
            kind = BYTE
        elif token is not None:
            kind = CONTROL if token.get("special") else USER_DEFINED
        else:
            kind, score = NORMAL, -float(ranks[text]) if text in ranks else _LOWEST
        texts.append(text)
        kinds.append(kind)
        scores.append(score)
    found = Vocabulary("llama", texts, kinds, read_special_tokens(folder, size, tokenizer), scores)
    found.space_prefix = _has_space_prefix(tokenizer)
    return found


def lacks_space_prefix(vocabulary: Vocabulary) -> bool:
    """Return whether the tokenizer puts no space before a text, where llama.cpp would unless it is told."""
    file = vocabulary.tokenizer_file
    return vocabulary.model == "llama" and file is not None and not _has_space_prefix(read_json(file))


def _has_space_prefix(tokenizer: Json) -> bool:
    """Return whether a text gets a space before it, by the normalizer or by what cuts it into words."""
    steps: list[Json] = []
    for whole in (tokenizer.get("normalizer") or {}, tokenizer.get("pre_tokenizer") or {}):
        steps += [whole, *(whole.get("normalizers") or ()), *(whole.get("pretokenizers") or ())]
    return any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )
