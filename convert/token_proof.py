"""Prove that llama.cpp cuts text into the same tokens as the checkpoint's own tokenizer.

A name for a tokenizer's rules that is almost right gives a model that answers almost well. So the tokens of
hard texts in many scripts are compared one by one before a weight is written.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from localknobs.convert.gguf_header import RawKey, header_bytes
from localknobs.convert.own_tokenizer import OwnTokenizer
from localknobs.convert.pretokenizer import FINGERPRINT_TEXT

SAMPLE = (
    FINGERPRINT_TEXT,
    "The quick brown fox can't jump; they'll say WE'VE won 1,234,567.89 times (since 1999)...  ok?\n\n\tEnd.   ",
    "Zażółć gęślą jaźń. Ünïcödé naïve façade — “quotes”, ‘single’, «guillemets» … 50 % of €1.000,50\u00a0£7",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ελληνικά: Τάχιστη αλώπηξ.",
    "हिन्दी में लिखा हुआ वाक्य। বাংলা ভাষা। தமிழ் மொழி. ไทยไม่มีช่องว่าง ລາວ မြန်မာ",
    "العربية من اليمين إلى اليسار، ١٢٣٤. עברית: שלום עולם. فارسی: نیم‌فاصله",
    "中文分词没有空格，标点符号。日本語のテキスト、カタカナとひらがな。한국어 텍스트입니다 123개",
    "def f(x):\n    return {'a': [i**2 for i in range(10)], \"b\": x != None} # comment\r\n\tif (a&&b||!c) { y->z++; }",
    "https://example.org/path?q=1&r=%20#frag user@mail.example C:\\dir\\file.txt snake_case camelCase HTMLParser",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ q\u0301x\u0302 ﬁ ½ ² ™ ∑∫√∞ ≠ → ░▒▓ \u200bzero\u200bwidth",
    "   leading\n \n  \n\n   mixed \t whitespace\u3000ideographic\u2003em  trailing  \n",
    "aaaaaaaaaaaaaaaa 0000000000 ---------- ========== ...... !!!! '''''' \"\"\"\" 'tis 'Twas I'D you'LL it'S",
)
"""Texts in which tokenizers are known to differ. All in composed form (NFC): llama.cpp composes nothing, so that a
tokenizer that does, as Qwen's, agrees with it on composed texts only, which nearly all texts are."""


class ProofProcesses:
    """The two that are compared, each in a process of its own, which gets ready while other work is done.

    Args:
        tokenizer_file: `tokenizer.json` of the checkpoint.
    """

    def __init__(self, tokenizer_file: Path) -> None:
        from localknobs.engine.tokens import TokensProcess  # 30 ms, and not needed without a proof

        self.own = OwnTokenizer(tokenizer_file)
        self._llama: TokensProcess | None = TokensProcess()  # it answers once

    def llama_tokens(self, model: Path, texts: Sequence[tuple[str, bool]]) -> list[list[int]]:
        """Return llama.cpp's tokens of each text, as `localknobs.engine.tokens.tokens_of` does."""
        from localknobs.engine.tokens import tokens_of

        if self._llama is None:
            return tokens_of(model, texts)
        with contextlib.closing(self._llama) as ready:
            self._llama = None
            return ready.tokens_of(model, texts)

    def close(self) -> None:
        """End both."""
        self.own.close()
        if self._llama:
            self._llama.close()


@contextlib.contextmanager
def proof_processes(folder: Path) -> Iterator[ProofProcesses | None]:
    """Start the processes of a proof, so that they get ready while a conversion is planned; end them after it.

    Args:
        folder: The checkpoint; without a `tokenizer.json` there is nothing to compare with, and None is given.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        yield None
        return
    with contextlib.closing(ProofProcesses(file)) as processes:
        yield processes


def first_difference(
    keys: Sequence[RawKey],
    processes: ProofProcesses,
    texts: Sequence[str],
    special_texts: Sequence[tuple[str, bool]],
) -> str | None:
    """Compare llama.cpp's tokens with a tokenizer's own; return how they first differ, None when they do not.

    Args:
        keys: Of the file, with the vocabulary.
        processes: What is asked.
        texts: The texts of all tokens, to show them.
        special_texts: Texts to compare besides the sample, each with whether special tokens in it count.

    Raises:
        BadFile: llama.cpp cannot use the vocabulary at all.
    """
    sample = [*((text, False) for text in SAMPLE), *special_texts]
    with tempfile.TemporaryDirectory(prefix="localknobs-") as folder:
        file = Path(folder) / "vocabulary.gguf"
        file.write_bytes(header_bytes(keys, []))
        theirs = processes.llama_tokens(file, sample)
    for (text, _), found in zip(sample, theirs, strict=True):
        expected = processes.own.encode(text)
        if found != expected:
            return _shown(text, expected, found, texts)
    return None


def _shown(text: str, expected: list[int], found: list[int], texts: Sequence[str]) -> str:
    pairs: list[tuple[Any, Any]] = [*zip(expected, found, strict=False)]
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), len(pairs))

    def few(tokens: list[int]) -> str:
        shown = [texts[token] if token < len(texts) else f"#{token}" for token in tokens[same : same + 4]]
        return " ".join(map(repr, shown)) or "nothing"

    before = "".join(texts[token] for token in expected[max(0, same - 3) : same] if token < len(texts))
    return f"after {before!r} in {text[:40]!r} the tokenizer goes on with {few(expected)}, llama.cpp with {few(found)}"
