"""The worker's timing of models in turns, by the loop of `localknobs bench`: reading a prompt, writing one by one."""

from __future__ import annotations

from typing import Any

from localknobs.engine.timing import seconds_of


def time_models(worker: Any, order: dict[str, Any]) -> None:
    """Time all open models in turns, so that the machine's moods hit all alike; say one record a round and model.

    The order names `prompt` and `generated` (tokens), and `rounds`.
    """
    for number in range(order["rounds"] + 1):
        if worker.enough.is_set() and number > 1:
            break
        for one in worker.models:
            read = seconds_of(one.model, read=order["prompt"])
            written = seconds_of(one.model, written=order["generated"])
            one.clear()
            if number:  # the first round pays for memory that is touched for the first time
                worker.say({"record": {
                    "model": one.number, "round": number, "prompt_tokens_per_s": order["prompt"] / read,
                    "tokens_per_s": order["generated"] / written,
                }})  # fmt: skip
