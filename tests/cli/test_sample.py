"""`localknobs sample` and `localknobs determinism`: text, JSON, and what is refused."""

import json

import pytest
from random_model import END, byte_tokens, write_random_model, write_scripted_model

T = ("-t", "1")


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory):
    """Return a model that goes on with the alphabet."""
    folder = tmp_path_factory.mktemp("alphabet")
    return write_scripted_model(
        folder / "alphabet.gguf", [*byte_tokens("abcdefghijklmnopqrstuvwxyz"), END], context=256
    )


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("noise") / "noise.gguf", fillers=200)


def test_the_candidates_and_the_stages_are_listed(run, alphabet):
    done = run("sample", alphabet, "--raw", "-p", "ab", "--temp", "0.5", "--top", "3", *T)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    top_k = next(line for line in lines if line.startswith("top-k"))
    assert top_k.split()[1] == "40"
    assert next(line for line in lines if line.startswith("DRY")).split()[1] == "off"
    first = next(line for line in lines if '"c"' in line)
    assert first.split()[0] == str(byte_tokens("c")[0]) and first.endswith("100.00%")
    assert "removed by" in done.stdout.lower()


def test_json_has_every_stage_of_every_candidate(run, noise):
    done = run("sample", noise, "-p", "hello", "--top", "9", "--json", "--xtc-probability", "0.5", "--top-k", "5", *T)
    view = json.loads(done.stdout)
    names = [stage["name"] for stage in view["stages"]]
    assert names == view["sampler"]["samplers"] and len(view["candidates"]) == 9
    assert view["stages"][3]["after"] == 5 and view["stages"][7]["chance"] == 0.5
    for one in view["candidates"]:
        assert len(one["probabilities"]) == len(names) + 1
        assert one["before"] == one["probabilities"][0] and one["after"] == one["probabilities"][-1]
        assert (one["removed_by"] is None) == (one["after"] > 0)
    assert sum(one["after"] for one in view["candidates"]) == pytest.approx(1, abs=1e-4)
    assert view["entropy_bits"] > 0 and view["prompt_tokens"] > 5


def test_the_answer_can_be_begun(run, alphabet):
    def likeliest(*arguments):
        view = json.loads(run("sample", alphabet, "--json", "--top", "1", *arguments, *T).stdout)
        return view["candidates"][0]["text"]

    assert likeliest("-p", "x", "--begin", "abcd") == "e"
    assert likeliest("--raw", "-p", "xy", "--begin", "g") == "h"
    assert json.loads(run("sample", alphabet, "--json", "--raw", "-p", "z", *T).stdout)["candidates"][0]["ends"]


def test_the_order_of_the_chain_is_a_flag(run, noise):
    done = run("sample", noise, "-p", "x", "--samplers", "temperature;min_p", "--temp", "2", *T)
    stages = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert stages.index("temperature") < stages.index("min-p") and "top-k" not in stages


@pytest.mark.parametrize("verb", ["sample", "determinism"])
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("-p", ""), 2, "empty"),
        (("-p", "x", "--temp", "-1"), 2, "temp"),
        (("-p", "x", "--grammar", "root ::= ("), 2, "grammar"),
        (("-p", "x", "--logit-bias", "999999+1"), 2, "999999"),
        (("-p", "x", "--preset", "nonsense"), 2, "nonsense"),
        (("nowhere.gguf", "-p", "x"), 3, "nowhere.gguf"),
    ],
)
def test_what_is_refused(run, verb, arguments, code, says):
    done = run(verb, *arguments, *T)
    assert done.returncode == code and says in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "arguments", [("sample", "--top", "0"), ("sample", "--top", "5000"), ("determinism", "--runs", "1")]
)
def test_counts_out_of_range_name_the_range(run, arguments):
    done = run(*arguments, "-p", "x", *T)
    assert done.returncode == 2 and "It takes" in done.stderr


def test_determinism_says_what_makes_answers_differ(run, noise):
    done = run("determinism", noise, "-p", "hello", "--runs", "3", "-n", "8", *T)
    assert done.returncode == 0
    assert "do not give the same answer" in done.stdout and "--seed" in done.stdout
    settings = next(line for line in done.stdout.splitlines() if line.startswith("your settings, as they are"))
    assert "0 of 2" in settings and "token" in settings


def test_determinism_as_json(run, noise):
    done = run("determinism", noise, "-p", "hello", "--runs", "2", "-n", "8", "--json", "--seed", "3", *T)
    found = json.loads(done.stdout)
    assert found["repeats"] is True and found["causes"][0] == "temperature"
    names = [trial["name"] for trial in found["trials"]]
    assert {"temperature 0", "settings", "seed", "other seed", "batch", "cache"} <= set(names)
    other = next(trial for trial in found["trials"] if trial["name"] == "other seed")
    assert other["parting"]["token"] >= 0 and other["same"] == 0
