"""The checkpoint's own tokenizer, by the library that made it; `OwnTokenizer` has it in a process of its own.

Reading a large `tokenizer.json` takes long, and the library holds Python while it does: weights that are copied
meanwhile would wait for it. The child, `python -m localknobs.convert.own_tokenizer FILE`, answers JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from localknobs.errors import BadFile

Encode = Callable[[str], list[int]]
_COMMAND = (sys.executable, "-P", "-m", "localknobs.convert.own_tokenizer")


def own_encoder(file: Path) -> tuple[Encode, Encode]:
    """Return two functions from text to tokens: without and with the special tokens that are put around it.

    Args:
        file: `tokenizer.json`.

    Raises:
        BadFile: the tokenizers library cannot read it.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare exceptions
        raise BadFile(f"{file} is no tokenizer: {error}", "Fetch it again.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_wrapped(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    return encode, encode_wrapped


class OwnTokenizer:
    """A tokenizer in a process that begins to read its file at once; errors come with the first question.

    Args:
        file: `tokenizer.json`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._child = subprocess.Popen(
            (*_COMMAND, str(file)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without any that are put around it.

        Raises:
            BadFile: the tokenizers library cannot read the file, or cannot cut the text.
        """
        return self._asked(text, wrapped=False)

    def encode_wrapped(self, text: str) -> list[int]:
        """Return the tokens of a text with those that are put around it; raises as `encode` does."""
        return self._asked(text, wrapped=True)

    def _asked(self, text: str, *, wrapped: bool) -> list[int]:
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write(json.dumps([text, wrapped]).encode() + b"\n")
            self._child.stdin.flush()
        except OSError:
            pass  # it has ended, and may have said why
        answer = json.loads(self._child.stdout.readline() or b"{}")
        if "tokens" not in answer:
            reason = answer.get("error") or f"{self._file} is no tokenizer: it ends the tokenizers library"
            raise BadFile(reason, "Fetch it again.")
        tokens: list[int] = answer["tokens"]
        return tokens

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # a question that it did not live to read
                    pipe.close()


def _main(file: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business

    def say(answer: dict[str, object]) -> None:
        print(json.dumps(answer), flush=True)

    try:
        encode, encode_wrapped = own_encoder(file)
    except BadFile as error:
        say({"error": error.message})
        return
    for line in sys.stdin:
        text, wrapped = json.loads(line)
        try:
            say({"tokens": (encode_wrapped if wrapped else encode)(text)})
        except Exception as error:  # the library raises bare exceptions
            say({"error": f"{file} cannot cut {text[:40]!r}: {error}"})


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
