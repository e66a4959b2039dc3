"""`search` and `pull` as a user runs them: one line each for what can go wrong, no secrets anywhere."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import small_gguf
from loopback_hub import TOKEN, Behaviour, Repo
from program import DEADLINE_S, PROGRAM, Terminal

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=DEADLINE_S,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return what was said; one line, with what to do."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("localknobs: ")]
    assert len(lines) == 1 and done.stdout == ""
    return lines[0]


# ---- search ---------------------------------------------------------------------------------------


@pytest.fixture
def shelf(hub):
    hub.repos["maker/raw-small"] = Repo({}, tags=("safetensors", "license:apache-2.0"), downloads=5000, likes=2,
                                        used_storage=3 * 2**30)  # fmt: skip
    hub.repos["other/small-two"] = Repo({}, downloads=7, likes=900, gated=True, updated="2026-11-20T00:00:00.000Z")
    hub.repos["secret/small"] = Repo({}, private=True)
    return hub


def test_search_shows_what_one_chooses_by(run, shelf):
    done = run("search", "small")
    heads, *rows = [line.split() for line in done.stdout.splitlines()]
    assert heads == ["NAME", "DOWNLOADS", "LIKES", "UPDATED", "PARAMS", "SIZE", "FORMAT", "GATED", "LICENCE"]
    assert [row[0] for row in rows] == ["maker/raw-small", "maker/small-GGUF", "other/small-two"]
    assert "3.0 GiB" in done.stdout and "gated" in rows[2] and rows[0][-1] == "apache-2.0"


def test_search_sorts_and_filters(run, shelf):
    def names(*choices: str) -> list[str]:
        return [one["repo"] for one in json.loads(run("search", "small", "--json", *choices).stdout)["models"]]

    assert names("--sort", "likes")[0] == "other/small-two"
    assert names("--sort", "updated")[0] == "other/small-two"
    assert names("--sort", "size")[0] == "maker/raw-small"
    assert names("--gguf", "--limit", "1") == ["maker/small-GGUF"]
    assert names("--safetensors") == ["maker/raw-small"]


def test_search_for_nothing_that_is_there(run, hub):
    done = run("search", "zzz")
    assert done.returncode == 0 and done.stdout == "" and "'zzz'" in done.stderr
    assert "--limit cannot be 0" in refused(run("search", "x", "--limit", "0"), 2)


# ---- pull -----------------------------------------------------------------------------------------


def test_a_dry_run_says_what_it_would_fetch_and_what_else_there_is(run, hub, cache):
    done = run("pull", "maker/small-GGUF", "--dry-run")
    assert done.returncode == 0
    shown = done.stdout
    assert "small-Q4_K_M.gguf" in shown and "llama, 160 parameters" in shown and "128 tokens" in shown
    assert "UD-IQ1_S" in shown and "projector" in shown and "licence" in shown and "mit" in shown
    assert not cache.exists(), "nothing is written"
    machine = json.loads(run("pull", "maker/small-GGUF:q8_0", "--dry-run", "--json").stdout)
    assert machine["quant"] == "Q8_0" and machine["model"]["architecture"] == "llama"
    assert {file["quant"] for file in machine["there_is"]} == {"Q4_K_M", "Q8_0", "UD-IQ1_S", "F16"}


def test_what_was_pulled_is_listed_by_name(run, hub, cache):
    done = run("pull", "maker/small-GGUF")
    path = Path(done.stdout.strip())
    assert path.read_bytes() == hub.repos["maker/small-GGUF"].files["small-Q4_K_M.gguf"]
    assert "localknobs chat maker/small-GGUF:Q4_K_M" in done.stderr
    assert run("show", "maker/small-GGUF:Q4_K_M").returncode == 0
    asked = len(hub.of("store"))
    again = run("get", "maker/small-GGUF@q4_k_m", "--json")
    assert json.loads(again.stdout)["path"] == str(path) and len(hub.of("store")) == asked


def test_what_the_header_took_is_not_fetched_twice(run, hub, cache, noise):
    hub.repos["maker/one"] = Repo({"one.gguf": small_gguf() + noise[: 6 * 2**20]})
    assert run("pull", "maker/one").returncode == 0
    assert hub.sent_bytes == len(small_gguf()) + 6 * 2**20


def test_a_model_without_a_readable_header_is_fetched_all_the_same(run, hub, cache):
    hub.repos["maker/odd"] = Repo({"odd.gguf": b"no header at all" * 100})
    done = run("pull", "maker/odd")
    assert done.returncode == 0 and "header could not be read" in done.stderr and Path(done.stdout.strip()).is_file()
    assert "localknobs cannot use it" in done.stderr and "To chat with it" not in done.stderr


def test_a_renamed_repository_is_found_by_its_old_name(run, hub, cache):
    hub.renamed = {"old/name": "maker/small-GGUF"}
    done = run("pull", "old/name:Q8_0", HF_TOKEN=TOKEN)
    assert done.returncode == 0 and "models--maker--small-GGUF" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("maker/small-GGUF:Q5_K_M",), 3, r"There is no Q5_K_M in maker/small-GGUF. There is: "),
        (("maker/nothing",), 3, "There is no maker/nothing on the hub, or it is private"),
        (("maker/small-GGUF/none.gguf",), 3, "There is no model file none.gguf"),
        (("maker/small-GGUF", "--revision", "v9"), 3, "has no such revision"),
        (("secret/own",), 3, "or it is private. Check the name (`localknobs search`); for a private one set HF_TOKEN"),
        (("small",), 2, "`localknobs search small` finds the name"),
        (("https://example.com/a/b",), 2, "example.com is not the hub"),
        (("maker/small-GGUF", "--limit-rate", "fast"), 2, "fast is no rate"),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_said_in_one_line(run, hub, cache, arguments, code, said):
    hub.repos["secret/own"] = Repo({"a.gguf": small_gguf()}, private=True)
    done = run("pull", *arguments)
    assert done.returncode == code and done.stdout == ""
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_gated_model_names_the_page_where_one_consents(run, hub, cache):
    hub.repos["maker/gated"] = Repo({"a.gguf": small_gguf()}, gated=True)
    said = refused(run("pull", "maker/gated"), 1)
    assert "is gated" in said and f"{hub.address}/maker/gated, then" in said and "HF_TOKEN" in said
    assert run("pull", "maker/gated", HF_TOKEN=TOKEN).returncode == 0


def test_no_network_is_said_in_one_line(run, cache):
    said = refused(run("pull", "maker/small-GGUF", HF_ENDPOINT="http://127.0.0.1:9"), 1)
    assert "There is no connection to 127.0.0.1: it refuses connections" in said


def test_a_proxy_that_is_not_there_is_named(run, hub, cache):
    said = refused(run("search", "x", HTTP_PROXY="http://127.0.0.1:9", NO_PROXY=""), 1)
    assert "no connection" in said and "HTTPS_PROXY" in said


def test_a_proxy_is_used(run, hub, cache):
    hub.redirects = False
    through = {"HF_ENDPOINT": "http://hub.example", "HTTP_PROXY": hub.address, "NO_PROXY": "", "no_proxy": ""}
    done = run("pull", "maker/small-GGUF:Q8_0", **through)
    assert done.returncode == 0, done.stderr
    assert hub.asked and all(one.path.startswith("http://hub.example/") for one in hub.asked)


def test_a_hub_that_is_none(run, hub, cache):
    hub.hub_refuses = [(200, {"Content-Type": "text/html"})] * 9
    assert "cannot be read" in refused(run("pull", "maker/small-GGUF"), 1)


def test_ctrl_c_keeps_what_came(hub, cache, noise):
    import signal

    hub.repos["maker/slow"] = Repo({"slow.gguf": small_gguf() + noise})
    hub.store = Behaviour(bytes_per_s=4e6)
    process = subprocess.Popen([PROGRAM, "pull", "maker/slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while hub.sent_bytes < 3_000_000:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130 and out == b"" and b"What was fetched is kept" in err
    assert list(cache.rglob("*.localknobs.incomplete"))


# ---- secrets --------------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_alone_and_is_written_nowhere(run, hub, cache, tmp_path):
    hub.repos["maker/gated"] = Repo({"a.gguf": small_gguf(), "bad.gguf": small_gguf()}, gated=True, private=True,
                                    claimed_hashes={})  # fmt: skip
    hub.repos["maker/gated"].etag("bad.gguf")
    hub.repos["maker/gated"].claimed_hashes["bad.gguf"] = "0" * 64
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    said = ""
    for arguments, environment in (
        (("pull", "maker/gated/a.gguf"), {"HF_TOKEN": TOKEN}),
        (("pull", "maker/gated/a.gguf", "--json"), {"HF_TOKEN_PATH": str(token_file)}),
        (("pull", "maker/gated/bad.gguf"), {"HF_TOKEN": TOKEN, "LOCALKNOBS_DEBUG": "1", "HF_DEBUG": "1"}),
        (("pull", "maker/nothing"), {"HF_TOKEN": TOKEN}),
        (("search", "gated", "--json"), {"HF_TOKEN": TOKEN}),
        (("pull", f"https://user:{TOKEN}@example.com/a/b"), {}),
        (("pull", "maker/gated"), {"HF_TOKEN": TOKEN + "x"}),
    ):
        done = subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=DEADLINE_S
        )
        said += done.stdout + done.stderr
    assert "does not know your token" in said and "its hash is another" in said
    assert TOKEN not in said
    to_the_hub = [one.headers.get("Authorization") for one in hub.of("hub")]
    assert f"Bearer {TOKEN}" in to_the_hub
    assert [one.headers.get("Authorization") for one in hub.of("store")] == [None] * len(hub.of("store"))
    assert hub.of("store"), "the store was asked"
    home = Path(os.environ["HOME"])
    for folder in (cache, home):
        for file in folder.rglob("*"):
            assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_neither_token_nor_signature_is_in_a_journal(hub, cache, noise, monkeypatch):
    from localknobs.hub.download import download
    from localknobs.hub.plan import plan_download
    from localknobs.hub.repository import open_repository
    from localknobs.hub.spec import parse_spec
    from localknobs.jobs import Advanced

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repos["maker/big"] = Repo({"big.gguf": noise}, gated=True)
    spec = parse_spec("maker/big")
    job = download(plan_download(open_repository(spec), spec))
    for event in job:
        if isinstance(event, Advanced) and event.amount:
            break
    job.close()
    journal = next(cache.rglob("*-journal.incomplete")).read_text()
    assert '"hash"' in journal and TOKEN not in journal and "signature" not in journal


def test_what_cannot_be_a_token_is_not_shown(run, hub, cache):
    for arguments in (("pull", "maker/small-GGUF"), ("search", "x")):
        said = refused(run(*arguments, HF_TOKEN="hf_gehei\u00dfm"), 1)
        assert "holds characters that no token has" in said and "gehei" not in said
    assert hub.asked == []


def test_an_implicit_token_can_be_forbidden(run, hub, cache):
    run("search", "small", HF_TOKEN=TOKEN, HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    assert [one.headers.get("Authorization") for one in hub.asked] == [None] * len(hub.asked)


def test_nothing_but_what_was_asked_for_is_sent(run, hub, cache):
    assert run("pull", "maker/small-GGUF", AI_AGENT="1").returncode == 0
    assert {one.path.split("?")[0].split("/resolve/")[0] for one in hub.of("hub")} == {
        "/api/models/maker/small-GGUF/revision/main", "/maker/small-GGUF",
    }  # fmt: skip


# ---- offline --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["--offline", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "LOCALKNOBS_OFFLINE", "LLAMA_ARG_OFFLINE"]
)
def test_offline_is_said_and_nothing_is_asked(run, hub, cache, how):
    given = ("pull", "maker/small-GGUF")
    done = run(*given, how) if how == "--offline" else run(*given, **{how: "1"})
    said = refused(done, 3)
    assert "pull needs a connection, and none is opened" in said and how in said
    assert hub.asked == []


def test_offline_may_stand_before_the_verb(run, hub):
    assert "search needs a connection" in refused(run("--offline", "search", "x"), 3)
    assert hub.asked == []


# ---- on a terminal --------------------------------------------------------------------------------


@pytest.fixture
def terminal():
    opened: list[Terminal] = []

    def terminal(*arguments: str, columns: int = 80) -> Terminal:
        opened.append(Terminal([*arguments], columns, 30, {}))
        return opened[-1]

    yield terminal
    for each in opened:
        each.close()


def test_a_narrow_terminal_shows_names_whole(terminal, hub):
    name = "some-organisation/Rather-Long-Name-7B-Instruct-GGUF"
    hub.repos[name] = Repo({}, used_storage=5 * 10**9)
    narrow = terminal("search", "")
    assert narrow.ends() == 0 and name in narrow.text and "4.7 GiB" in narrow.text and "LIKES" not in narrow.text
    wide = terminal("search", "", columns=160)
    assert wide.ends() == 0 and "LIKES" in wide.text and "LICENCE" in wide.text


def test_pull_asks_and_shows_rate_and_time_left(terminal, hub, cache, noise, built_in):
    data = built_in.read_bytes() + noise[: 14 * 2**20]
    hub.repos["maker/slow"] = Repo({"A-Model-With-A-Rather-Long-Name-Q4_K_M.gguf": data})
    hub.store = Behaviour(bytes_per_s=2e6)
    asked = terminal("pull", "maker/slow")
    asked.wait_for("? [Y/n]")
    assert "It fits memory with 1,024 tokens" in asked.text
    asked.type("n\r")
    assert asked.ends() == 130 and "Nothing was fetched" in asked.text and not list(cache.rglob("blobs"))
    fetching = terminal("pull", "maker/slow")
    fetching.wait_for("[Y/n]")
    fetching.type("\r")
    line = fetching.wait_for("left").splitlines()[-1]
    assert "A-Model-With" in line and "% of 24.6 MiB" in line and "MiB/s" in line
    hub.store.bytes_per_s = 0
    assert fetching.ends() == 0 and "localknobs chat maker/slow:Q4_K_M" in fetching.text


def test_enter_does_not_fetch_what_cannot_be_used_here(terminal, run, hub, cache):
    asked = terminal("pull", "maker/small-GGUF")  # too small for llama.cpp
    asked.wait_for("all the same? [y/N]")
    asked.type("\r")
    assert asked.ends() == 130 and "Nothing was fetched" in asked.text and "every file" not in asked.text
    told = json.loads(run("pull", "maker/small-GGUF", "--dry-run", "--json").stdout)["fit"]
    assert told["verdict"] == "refused" and "llama.cpp refuses this model" in told["reason"]
