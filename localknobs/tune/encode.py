"""Examples as tokens, with what of them is learned: the answers, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from localknobs.errors import BadFile, Unsupported


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example.

    Args:
        tokens: Of the whole example.
        learned: For each token, whether its loss counts.
        line: In the file.
        was: Tokens before it was cut.
    """

    tokens: list[int]
    learned: list[bool]
    line: int
    was: int


def load_tokenizer(folder: str) -> Any:
    """Return a checkpoint's tokenizer.

    Raises:
        BadFile, Unsupported: transformers cannot load it, or it does not say where in a text its tokens lie.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the library raises all kinds
        raise BadFile(f"transformers cannot load the tokenizer of {folder}: {error}", "Fetch it again.") from None
    if not tokenizer.is_fast:
        raise Unsupported(f"The tokenizer of {folder} does not tell where its tokens lie", "It needs tokenizer.json.")
    return tokenizer


class Encoder:
    """Makes tokens of examples.

    Args:
        tokenizer: The model's.
        length: Most tokens of an example.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer = tokenizer
        self._length = length
        self.has_template = bool(getattr(tokenizer, "chat_template", None))

    def encode(self, example: Mapping[str, Any]) -> list[Encoded]:
        """Return an example's tokens; a text that is too long becomes several.

        Raises:
            BadFile: the model's template refuses the conversation; the message names the line.
        """
        if example["kind"] == "text":
            return self._text(example)
        text, spans = self._rendered(example)
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens, places = found["input_ids"], found["offset_mapping"]
        learned = [any(begin <= first and last <= end for begin, end in spans) for first, last in places]
        if not self.has_template and self._tokenizer.eos_token_id is not None:
            tokens, learned = [*tokens, self._tokenizer.eos_token_id], [*learned, True]
        was = len(tokens)
        return [Encoded(tokens[: self._length], learned[: self._length], example["line"], was)]

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation up to where the assistant speaks."""
        text = self._render(messages, answer=True) if self.has_template else _plain(messages)
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def _text(self, example: Mapping[str, Any]) -> list[Encoded]:
        tokenizer = self._tokenizer
        tokens = tokenizer(example["messages"][0]["content"], add_special_tokens=False, verbose=False)["input_ids"]
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        tokens = [*tokens, *end]
        room = self._length - len(begin)
        parts = [[*begin, *tokens[at : at + room]] for at in range(0, len(tokens), room)]
        return [
            Encoded(part, [at >= len(begin) for at in range(len(part))], example["line"], len(part)) for part in parts
        ]

    def _rendered(self, example: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """Return the text of a conversation and where in it the answers lie, their end of turn included."""
        messages = example["messages"]
        if not self.has_template:
            prompt, answer = _plain(messages[:-1]), messages[-1]["content"]
            return prompt + answer, [(len(prompt), len(prompt) + len(answer))]
        try:
            whole = self._render(messages, answer=False)
            spans = []
            for at, message in enumerate(messages):
                if message["role"] == "assistant":
                    before = self._render(messages[:at], answer=True)
                    after = self._render(messages[: at + 1], answer=False)
                    if whole.startswith(before) and whole.startswith(after.rstrip()):
                        spans.append((len(before), len(after.rstrip())))
        except Exception as error:  # whatever a stranger's template raises
            raise BadFile(
                f"Line {example['line']}: the model's chat template refuses it ({error})", "Mend or leave out the line."
            ) from None
        if not spans:  # some templates write earlier turns in another way than the last
            raise BadFile(
                f"Line {example['line']}: the model's chat template writes answers otherwise than it asks for them",
                "Give the data as prompts and completions of one turn.",
            )
        return whole, spans

    def _render(self, messages: list[dict[str, str]], *, answer: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
        return text


def _plain(messages: Iterable[Mapping[str, str]]) -> str:
    """Return a conversation for a model that has no template: the texts, one a line."""
    return "".join(f"{message['content']}\n" for message in messages)
