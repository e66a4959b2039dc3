"""Who may ask: the key, and no web page of another site, even one whose name points here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from served import Served
from witness import WITNESS

CHAT = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("first-key\nsecond-key\n")
    served = Served(
        "--api-key", "third-key", "--api-key-file", keys, "--allow-origin", "https://page.example", "--allow-host",
        "model.example", home=tmp_path_factory.mktemp("locked"),
    )  # fmt: skip
    yield served
    served.close()


@pytest.mark.parametrize("key", ["first-key", "second-key", "third-key"])
def test_each_key_lets_in(locked: Served, key: str):
    for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"X-Api-Key": key}):
        assert locked.client.post(CHAT, json=ASKED, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}, {"Authorization": "first-key"},
     {"Authorization": "Basic first-key"}, {"X-Api-Key": "first-key "  "x"}, {"Authorization": "Bearer first-key\xe9"}],
)  # fmt: skip
def test_nothing_else_does(locked: Served, headers: dict[str, str]):
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in (CHAT, "/tokenize", "/nowhere"):
        reply = locked.client.post(path, json=ASKED, headers=raw)
        assert reply.status_code == 401 and reply.json()["error"]["type"] == "authentication_error"
    for path in ("/props", "/metrics", "/v1/models"):
        assert locked.client.get(path, headers=raw).status_code == 401


def test_health_needs_no_key(locked: Served):
    assert locked.client.get("/health").status_code == 200


def test_no_key_is_ever_printed(locked: Served):
    locked.client.post(CHAT, json=ASKED, headers={"Authorization": "Bearer wrong"})
    assert "-key" not in locked.said.replace("api-key", "") and "wrong" not in locked.said.replace("is wrong", "")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:80", "192.168.1.5", "LOCALHOST:80"])
def test_addresses_and_localhost_are_its_names(server: Served, host: str):
    assert server.client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil", ""])
def test_a_name_of_somebody_elses_is_refused(server: Served, host: str):
    reply = server.client.post(CHAT, json=ASKED, headers={"Host": host})
    assert reply.status_code == 403 and reply.json()["error"]["code"] == "wrong_host"


def test_a_name_that_was_allowed_is_its_own(locked: Served):
    headers = {"Host": "model.example", "Authorization": "Bearer first-key"}
    assert locked.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])
def test_a_web_page_of_another_site_is_refused(server: Served, origin: str):
    reply = server.client.post(CHAT, json=ASKED, headers={"Origin": origin})
    assert reply.status_code == 403 and reply.json()["error"]["code"] == "wrong_origin"
    assert "access-control-allow-origin" not in reply.headers
    asked_before = server.client.options(CHAT, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert asked_before.status_code == 403


def test_its_own_page_may_ask_and_nothing_is_shared_without_an_origin(server: Served):
    own = server.client.post(CHAT, json=ASKED, headers={"Origin": server.url})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers


def test_an_allowed_page_may_ask_with_the_key(locked: Served):
    origin = {"Origin": "https://page.example"}
    before = locked.client.options(CHAT, headers={**origin, "Access-Control-Request-Method": "POST"})
    assert before.status_code == 200 and "authorization" in before.headers["access-control-allow-headers"]
    for headers, status in ((origin, 401), ({**origin, "Authorization": "Bearer first-key"}, 200)):
        reply = locked.client.post(CHAT, json=ASKED, headers=headers)
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == "https://page.example"
    assert locked.client.post(CHAT, json=ASKED, headers={"Origin": "https://page.example.evil"}).status_code == 403


def test_listening_beyond_this_machine_without_a_key_is_warned_of(start: Callable[..., Served], tmp_path: Path):
    served = start("--host", "0.0.0.0")
    assert "WARNING: anyone who reaches 0.0.0.0" in served.said
    assert httpx2.get(served.url.replace("0.0.0.0", "127.0.0.1") + "/v1/models").status_code == 200


def test_the_server_listens_and_opens_no_connection(tmp_path):
    """Another verb listens to nothing; this one answers, with the witness in it and in its worker."""
    (tmp_path / "sitecustomize.py").write_text(WITNESS)
    log = tmp_path / "attempts"
    served = Served(home=tmp_path, environment={"PYTHONPATH": str(tmp_path), "WITNESS_LOG": str(log)})
    try:
        assert served.chat(max_tokens=2).status_code == 200
    finally:
        served.close()
    assert "localknobs.engine.worker" in (tmp_path / "attempts.children").read_text(), "the witness was there"
    assert not log.exists()
