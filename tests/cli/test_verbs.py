"""The verbs that only look: help, ls, show, knobs, doctor."""

import json

import pytest
from gguf_files import ARRAY, TEXT, U32, gguf_bytes, gguf_key, small_gguf

from localknobs.cli.main import VERBS
from localknobs.cli.main import run as run_here
from localknobs.knobs import ALL_KNOBS, KNOBS, LEVERS


def test_help_lists_every_verb_and_each_verb_has_its_own(run, capsys):
    def printed(*arguments):
        assert run_here([*arguments]) == 0  # in this process: two of its own for each verb would take long
        return capsys.readouterr().out

    whole = run("--help")
    assert whole.returncode == 0 and whole.stderr == ""
    for verb in VERBS:
        assert f"\n  {verb} " in whole.stdout
        own = printed(verb, "--help")
        assert own.startswith(f"usage: localknobs {verb}")
        assert own == printed("help", verb)
    assert run("ls", "--help").stdout == printed("ls", "--help")


def test_version(run):
    from importlib.metadata import version

    assert run("--version").stdout == f"localknobs {version('localknobs')}\n"


# ---- ls ------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(home):
    """Return the models folder, with one model and one broken file in it."""
    folder = home / "data" / "models"
    (folder / "org").mkdir(parents=True)
    (folder / "org" / "small.gguf").write_bytes(small_gguf())
    (folder / "torn.gguf").write_bytes(small_gguf()[:300])
    return folder


def test_ls_names_the_folder_for_models_when_there_are_none(run, home):
    done = run("ls")
    heads, built_in = done.stdout.splitlines()
    assert heads.split() == ["NAME", "SIZE", "QUANT", "CTX", "PARAMS", "KIND", "SOURCE"] and built_in.startswith(
        "built-in "
    )
    assert str(home / "data" / "models") in done.stderr and "put .gguf files into" in done.stderr


def test_ls_lists_models_and_says_what_is_broken(run, shelf):
    done = run("ls")
    assert done.returncode == 0 and done.stderr == ""
    assert "org/small" in done.stdout and "128" in done.stdout
    assert "torn: " in done.stdout and "cut short" in done.stdout


def test_ls_json(run, shelf):
    listed = json.loads(run("ls", "--json").stdout)
    assert listed["models_folder"] == str(shelf)
    by_name = {model["name"]: model for model in listed["models"]}
    assert list(by_name) == ["built-in", "org/small", "torn"]
    assert by_name["org/small"]["context"] == 128 and by_name["org/small"]["size_bytes"] == len(small_gguf())
    assert by_name["torn"]["state"] == "damaged" and not by_name["torn"]["usable"] and by_name["torn"]["trouble"]


def test_tables_fit_a_narrow_terminal_and_are_whole_in_a_pipe(terminal, run, shelf):
    name = "a-very-long-name-of-a-model-" * 3
    (shelf / f"{name}.gguf").write_bytes(small_gguf())
    screen = terminal("ls", columns=60)
    assert screen.ends() == 0
    (row,) = [line for line in screen.text.splitlines() if "…" in line and "llama" in line]
    begin, end = row.split()[0].split("…")
    assert name.startswith(begin) and name.endswith(end) and begin and end, "the end of a name tells most"
    assert row.split()[-2:] == ["llama", "own"]
    assert name in run("ls").stdout


def test_a_name_in_a_file_cannot_steer_the_terminal(run, tmp_path):
    (tmp_path / "m.gguf").write_bytes(small_gguf("evil\x1b[2Jname\nsecond"))
    shown = run("show", tmp_path / "m.gguf").stdout
    assert "\x1b" not in shown and "evil\\x1b[2Jname second" in shown


# ---- show ----------------------------------------------------------------------------------------


def test_show_says_what_a_model_is(run, built_in):
    done = run("show")
    facts = dict(line.split("  ", 1) for line in done.stdout.split("\n\n")[0].splitlines())
    facts = {label.strip(): value.strip() for label, value in facts.items()}
    assert done.returncode == 0 and facts["file"] == str(built_in) and facts["architecture"] == "llama"
    for label in ("licence", "parameters", "layers", "attention heads", "KV heads", "vocabulary", "trained context"):
        assert facts[label] != "not stated"
    assert "bits per weight" in facts["quantization"] and "bytes a token" in facts["KV cache (f16)"]
    assert facts["chat template"].startswith("yes")
    assert "recommended sampling" in done.stdout


def test_show_json_agrees_with_itself(run, built_in):
    shown = json.loads(run("show", built_in, "--json", "--tensors").stdout)
    assert shown["size_bytes"] == built_in.stat().st_size
    bits = 8 * sum(tensor["size_bytes"] for tensor in shown["tensors"]) / shown["parameters"]
    assert shown["bits_per_weight"] == pytest.approx(bits, abs=1e-3)
    assert sum(shown["tensor_types"].values()) == len(shown["tensors"])
    heads, layers = shown["kv_heads"][0], shown["layers"]
    size = shown["metadata"]["llama.attention.key_length"]
    assert shown["cache_bytes_per_token"] == layers * heads * size * 4
    assert shown["cache_bytes_at_trained_context"] == shown["cache_bytes_per_token"] * shown["context"]


def test_show_tensors(run, tmp_path):
    (tmp_path / "m.gguf").write_bytes(small_gguf())
    rows = run("show", tmp_path / "m.gguf", "--tensors").stdout.split("TENSOR")[1].splitlines()[1:]
    assert [row.split() for row in rows] == [
        ["token_embd.weight", "32", "x", "4", "F32", "512", "B"],
        ["output_norm.weight", "32", "F32", "128", "B"],
    ]


def test_show_an_importance_matrix(run, tmp_path):
    keys = [
        gguf_key("general.type", TEXT, "imatrix"),
        gguf_key("imatrix.datasets", ARRAY, ["calibration.txt"], TEXT),
        gguf_key("imatrix.chunk_count", U32, 12),
    ]
    tensors = {"blk.0.ffn_up.weight.in_sum2": ((32,), 0, 0), "blk.0.ffn_up.weight.counts": ((1,), 0, 128)}
    (tmp_path / "i.gguf").write_bytes(gguf_bytes(keys, tensors, data=b"\0" * 160))
    shown = run("show", tmp_path / "i.gguf").stdout
    assert "imatrix" in shown and "calibration.txt" in shown and "12" in shown


def test_show_a_split_model_counts_all_its_files(run, tmp_path):
    def part(number):
        keys = [gguf_key("general.architecture", TEXT, "llama"), gguf_key("split.count", 2, 2)]
        return gguf_bytes(keys, {f"part{number}.weight": ((32, 8), 0, 0)}, data=b"\0" * 1024)

    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(part(number))
    whole = json.loads(run("show", tmp_path / "m-00001-of-00002.gguf", "--json", "--tensors").stdout)
    assert whole["parameters"] == 512 and [tensor["name"] for tensor in whole["tensors"]] == [
        "part1.weight",
        "part2.weight",
    ]
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    torn = run("show", tmp_path / "m-00001-of-00002.gguf")
    assert torn.returncode == 0 and "m-00002-of-00002.gguf is missing" in torn.stderr


# ---- knobs ---------------------------------------------------------------------------------------


def test_knobs_lists_every_row_once(run):
    listed = run("knobs").stdout
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]
    assert sorted(name for name in names if name in KNOBS) == sorted(KNOBS)
    assert all(card.title.upper() in listed for card in LEVERS)


def test_knobs_json_has_the_whole_rows(run):
    document = json.loads(run("knobs", "--json").stdout)
    assert [row["name"] for row in document["knobs"]] == list(ALL_KNOBS)
    assert [card["lever"] for card in document["levers"]] == [card.lever for card in LEVERS]
    assert json.loads(run("knobs", "temp", "--json").stdout)["high"] == KNOBS["temp"].high


@pytest.mark.parametrize("row", [KNOBS["temp"], KNOBS["threads"], KNOBS["stop"]], ids=lambda row: row.name)
def test_one_knob_is_explained_in_full(run, row):
    for name in (row.name, row.flags[0]):
        shown = run("knobs", "--", name).stdout
        for text in (row.help, row.cost, row.fails, row.source, row.range_text(), row.default_reason, *row.flags):
            assert text in shown


@pytest.mark.parametrize("card", LEVERS, ids=lambda card: card.lever)
def test_a_lever_shows_its_card(run, card):
    shown = run("knobs", card.lever).stdout
    for title, text in card.boxes:
        assert title in shown and text in shown


def test_a_group_is_a_table_of_its_knobs(run):
    shown = run("knobs", "dry").stdout
    assert all((row.name in shown) == (row.group == "DRY") for row in KNOBS.values())


# ---- doctor --------------------------------------------------------------------------------------


def test_doctor_tries_the_built_in_model(run):
    done = run("doctor")
    assert done.returncode == 0 and done.stderr == ""
    for label in ("processor", "memory", "C++ compiler", "nvcc", "backends", "RPC", "features", "extra CPU buffers"):
        assert f"\n{label}" in done.stdout
    assert "loads in" in done.stdout and "Verdict" in done.stdout


def test_doctor_json(run):
    report = json.loads(run("doctor", "--json").stdout)
    assert report["trial"]["error"] == "" and report["trial"]["tokens"] > 0
    assert "CPU" in report["llama_cpp"]["backends"] and report["machine"]["cores"] >= 1
    assert not any(finding["level"] == "problem" for finding in report["findings"])


def test_doctor_fails_with_a_command_when_llama_cpp_cannot_be_loaded(run, tmp_path):
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    done = run("doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "llama.cpp cannot be loaded" in done.stdout
    assert "libcudart.so.12" in done.stdout and ("make" in done.stdout or "pip install" in done.stdout)


def test_doctor_names_a_terminal_without_colours_or_letters(terminal):
    screen = terminal("doctor", TERM="dumb", PYTHONIOENCODING="latin-1", columns=70, lines=60)
    assert screen.ends() == 0
    for command in ("export TERM=xterm-256color", "export LANG=C.UTF-8"):
        assert command in screen.text
    assert "wants 80x24" in screen.text
