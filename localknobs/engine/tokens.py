"""llama.cpp's tokens of some texts, from a file that may hold a vocabulary alone; in a process of its own.

A vocabulary that llama.cpp dislikes may end the process. What the child prints on standard error is
llama.cpp's log; on standard output it prints one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from localknobs.errors import BadFile

_COMMAND = (sys.executable, "-P", "-m", "localknobs.engine.tokens")


class TokensProcess:
    """A process that has llama.cpp loaded when it is asked; it answers once."""

    def __init__(self) -> None:
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        self._child = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )

    def tokens_of(self, model: Path, texts: Sequence[tuple[str, bool]]) -> list[list[int]]:
        """Return the tokens of each text; arguments and errors as those of the function."""
        output, log = self._child.communicate(json.dumps({"model": str(model), "texts": list(texts)}).encode())
        if self._child.returncode == 0:
            found: list[list[int]] = json.loads(output)
            return found
        lines = [line.strip() for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
        reasons = [
            line.rpartition("error loading model")[2].lstrip(": ") for line in lines if "error loading model" in line
        ]
        raise BadFile(
            f"llama.cpp cannot use the vocabulary: {(reasons or lines[-1:] or ['it gave no reason'])[0]}",
            "Its tokenizer may be of a kind that llama.cpp does not have.",
        )

    def close(self) -> None:
        """End the process, whether it was asked or not."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe:
                pipe.close()


def tokens_of(model: Path, texts: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """Return the tokens of each text, without any that are put around it.

    Args:
        model: A GGUF file; its tensors are not looked at.
        texts: Texts, and whether special tokens written out in one count as such.

    Raises:
        BadFile: llama.cpp cannot read the vocabulary; the message gives its reason.
    """
    with contextlib.closing(TokensProcess()) as process:
        return process.tokens_of(model, texts)


def _main() -> int:
    from localknobs.engine.binding import lib

    lib.llama_backend_init()
    given = sys.stdin.buffer.read()
    if not given:
        return 0  # it was not needed
    order = json.loads(given)
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(order["model"]), parameters)
    if not model:
        return 1
    vocabulary = lib.llama_model_get_vocab(model)
    found = []
    for text, special in order["texts"]:
        data = text.encode("utf-8", "surrogatepass")
        room = (lib.llama_token * (len(data) + 8))()
        count = lib.llama_tokenize(vocabulary, data, len(data), room, len(room), False, special)
        if count < 0:  # a space can take three byte tokens; what is needed is told as a negative number
            room = (lib.llama_token * -count)()
            count = lib.llama_tokenize(vocabulary, data, len(data), room, len(room), False, special)
        found.append(list(room[:count]))
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(_main())
