"""The worker's answering of questions: written at temperature 0, or the log-probabilities of given choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from localknobs.engine.batch import Tokens
from localknobs.engine.templates import ChatTemplate, TemplateRenderer
from localknobs.engine.text import TextAssembler
from localknobs.errors import ContextFull
from localknobs.evaluate.distances import score
from localknobs.evaluate.models import PIECE_BYTES, OpenModel


def template_of(worker: Any, one: OpenModel) -> ChatTemplate:
    """Return the way from messages to tokens of a model; made once."""
    if worker.renderer is None:
        worker.renderer = TemplateRenderer()
    if one.template is None:
        one.template = one.model.template_with(worker.renderer)
    return one.template


def answer_items(worker: Any, order: dict[str, Any]) -> None:
    """Answer questions with all open models, question by question; say one record a question and model."""
    for item in order["items"]:
        if worker.enough.is_set():
            break
        for one in worker.models:
            template = template_of(worker, one)
            if item["choices"]:
                prompt, wholes = _with_choices(template, item)
                found: dict[str, Any] = {"scores": [total for total, _ in choice_scores(one, prompt, wholes)]}
            else:
                found = {"text": written_answer(template, one, item)}
            worker.say({"record": {"model": one.number, "item": item["item"], **found}})


def _with_choices(template: ChatTemplate, item: dict[str, Any]) -> tuple[list[int], list[list[int]]]:
    """Return the tokens of a question, and of the question followed by each choice."""
    if item["raw"]:
        text = item["messages"][0]["content"]
        # A choice that begins a word goes after a space, where neither text has one.
        space = "" if text[-1].isspace() else " "
        follow = [space + choice if choice[0].isalnum() else choice for choice in item["choices"]]
        return template.plain(text).tokens, [template.plain(text + choice).tokens for choice in follow]
    messages = item["messages"]
    wholes = [
        template.prompt([*messages, {"role": "assistant", "content": choice}], continue_last=True).tokens
        for choice in item["choices"]
    ]
    return template.prompt(messages).tokens, wholes


def choice_scores(one: OpenModel, prompt: Sequence[int], wholes: Sequence[Sequence[int]]) -> list[tuple[float, bool]]:
    """Return the log-probability of each continuation, and whether each of its tokens is the likeliest.

    What all have in common is computed once.
    """
    common = min(len(prompt), *map(len, wholes))
    for whole in wholes:
        common = next((at for at in range(common) if whole[at] != prompt[at]), common)
    common = max(1, common)
    _check_room(one, max(map(len, wholes)))
    one.clear()
    _compute(one, np.array(prompt[: common - 1], np.int32))
    found = []
    for whole in wholes:
        tokens = np.array(whole[common - 1 :], np.int32)
        total, greedy, place = 0.0, True, 1
        rows = max(1, PIECE_BYTES // (4 * one.model.vocabulary_size))
        for logits in one.logits(tokens[:-1], 0, rows) if len(tokens) > 1 else ():
            right = tokens[place : place + len(logits)]
            scores = score(logits, right)
            total -= float(scores.surprises.sum())
            greedy &= bool((scores.tops == right).all())
            place += len(logits)
        found.append((total, greedy))
        if not one.keep(common - 1):
            one.clear()
            _compute(one, np.array(prompt[: common - 1], np.int32))
    return found


def written_answer(template: ChatTemplate, one: OpenModel, item: dict[str, Any]) -> str:
    """Return the likeliest answer, token by token."""
    if item["raw"]:
        prompt = template.plain(item["messages"][0]["content"])
    else:
        prompt = template.prompt(item["messages"])
    _check_room(one, len(prompt.tokens) + item["max_tokens"])
    one.clear()
    assembler = TextAssembler(prompt.stops)
    text, tokens = "", np.array(prompt.tokens, np.int32)
    suppressed = list(one.model.suppressed_tokens)
    for _ in range(item["max_tokens"]):
        logits = _last_logits(one, tokens)
        if suppressed:
            logits = logits.copy()
            logits[suppressed] = -math.inf
        token = int(logits.argmax())
        piece = one.model.piece(token)
        if piece is None:
            break
        text += assembler.push(piece)
        if assembler.stopped:
            return text
        tokens = np.array([token], np.int32)
    return text + assembler.finish()


def _check_room(one: OpenModel, needed: int) -> None:
    if needed > one.model.context_size:
        raise ContextFull(
            f"A question and its answer take {needed:,} tokens for {one.label}, and its context has "
            f"{one.model.context_size:,}",
            f"Give it more: -c {-(-needed // 256) * 256}.",
            needed_tokens=needed,
            available_tokens=one.model.context_size,
        )


def _compute(one: OpenModel, tokens: Tokens) -> None:
    if len(tokens):
        for _ in one.logits(tokens, len(tokens), 1):
            pass


def _last_logits(one: OpenModel, tokens: Tokens) -> Any:
    (logits,) = one.logits(tokens, len(tokens) - 1, max(1, len(tokens)))
    return logits[0]
