"""Turn conversations into token rows with a weight a token, and rows into batches of like length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from corpus import Conversations
from tokenizer import BEGIN, TURN_BEGIN, TURN_END

CONTEXT = 1024
PROMPT_WEIGHT = 0.1
"""Weight of the loss on what the user says; the answer counts 1."""


def rows_of(tokenizer: Tokenizer, conversations: int, seed: int, *, all_wordings: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (tokens uint16, weights float16) of each conversation that fits the context."""
    begin, turn, end = (tokenizer.token_to_id(name) for name in (BEGIN, TURN_BEGIN, TURN_END))
    newline = tokenizer.encode("\n").ids
    roles = {role: tokenizer.encode(role + "\n").ids for role in ("system", "user", "assistant")}
    chosen = list(itertools.islice(Conversations(seed, all_wordings=all_wordings), conversations))
    encoded = iter(tokenizer.encode_batch([message["content"] for messages in chosen for message in messages], add_special_tokens=False))
    rows = []
    for messages in chosen:
        ids, weights = [begin], [0.0]
        for message in messages:
            content = next(encoded).ids
            if message["role"] == "text":
                ids += content
                weights += [1.0] * len(content)
                continue
            if message["role"] == "echo":
                ids += content * 4
                weights += [0.0] * len(content) + [1.0] * (3 * len(content))
                continue
            weight = 1.0 if message["role"] == "assistant" else PROMPT_WEIGHT
            head = [turn, *roles[message["role"]]]
            ids += [*head, *content, end, *newline]
            weights += [0.0] * len(head) + [weight] * len(content) + [1.0 if weight == 1.0 else 0.0] + [0.0] * len(newline)
        if len(ids) <= CONTEXT:
            rows.append((np.array(ids, np.uint16), np.array(weights, np.float16)))
    return rows


def batches_of(rows: list[tuple[np.ndarray, np.ndarray]], tokens: int, pad: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield padded (tokens [batch, length], weights [batch, length]) for ever, about that many tokens each."""
    generator = np.random.default_rng(seed)
    lengths = np.array([len(ids) for ids, _ in rows])
    while True:
        order = np.lexsort((generator.random(len(rows)), lengths // 16))
        groups, group, longest = [], [], 0
        for index in order:
            longest = max(longest, int(lengths[index]))
            if group and longest * (len(group) + 1) > tokens:
                groups.append(group)
                group, longest = [], int(lengths[index])
            group.append(index)
        groups.append(group)
        for number in generator.permutation(len(groups)):
            members = groups[number]
            width = int(lengths[members].max())
            ids, weights = np.full((len(members), width), pad, np.int64), np.zeros((len(members), width), np.float32)
            for line, index in enumerate(members):
                ids[line, : lengths[index]], weights[line, : lengths[index]] = rows[index]
            yield ids, weights
