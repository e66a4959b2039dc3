"""Headers of files that are not here: read by a few ranges, and told when they cannot be had."""

from __future__ import annotations

import pytest
from fetching import plan_of
from loopback_hub import Behaviour, Repo

from localknobs.hub.download import download
from localknobs.hub.remote import remote_headers
from localknobs.hub.source import Unreachable
from localknobs.jobs import drain


def test_a_header_is_read_by_a_few_ranges(hub, cache, noise):
    from gguf_files import ARRAY, TEXT, U32, gguf_bytes, gguf_key

    words = [f"token number {number}" for number in range(150_000)]
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("tokenizer.ggml.tokens", ARRAY, words, TEXT),
        gguf_key("llama.context_length", U32, 4096),
    ]
    data = gguf_bytes(keys, {"token_embd.weight": ((32, 4), 0, 0)}, data=b"\0" * 512)
    hub.repos["maker/wordy"] = Repo({"wordy.gguf": data + noise})
    for ignores in (False, True):
        hub.asked.clear()
        hub.store = Behaviour(ignores_ranges=ignores)
        beginnings: dict[str, bytes] = {}
        plan = plan_of("maker/wordy")
        (header,) = remote_headers(plan.files[0], beginnings)
        assert header.architecture == "llama" and header.context_trained == 4096
        assert len(hub.of("store")) <= 6, "few requests"
        begun = beginnings["wordy.gguf"]
        assert (data + noise).startswith(begun) and len(begun) >= len(data) - 1000
    before = hub.sent_bytes
    hub.store = Behaviour()
    assert drain(download(plan, beginnings)).read_bytes() == data + noise
    assert hub.sent_bytes - before < len(noise) + 3 * 2**20, "what the header took is not fetched again"


def test_the_headers_of_shards_come_together(hub, cache):
    plan = plan_of("maker/small-GGUF:UD-IQ1_S")
    assert [header.path.name for header in remote_headers(plan.files[0])] == [
        f"small-UD-IQ1_S-0000{number}-of-00002.gguf" for number in (1, 2)
    ]


def test_a_header_that_cannot_be_had(hub, cache):
    plan = plan_of("maker/small-GGUF")
    hub.store.refuse = [(500, {})] * 3
    with pytest.raises(Unreachable, match="it answers 500"):
        remote_headers(plan.files[0])
    hub.store.refuse = [(500, {})] * 2
    assert remote_headers(plan.files[0])[0].architecture == "llama"
