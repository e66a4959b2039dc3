"""Vocabularies: SentencePiece, byte-level BPE and BPE with byte fallback, added tokens, roles, templates, proofs."""

from __future__ import annotations

import contextlib
import json
import unicodedata

import numpy as np
import pytest
from conversions import change_json
from tiny_checkpoints import CORPUS, LLAMA3_CUTS, field, write_tokenizer

from localknobs.convert.metadata import Sheet, add_origin
from localknobs.convert.own_tokenizer import OwnTokenizer, own_encoder
from localknobs.convert.pretokenizer import EVERY_NAME, FINGERPRINT_TEXT, fingerprint_of, names_for, rules_of
from localknobs.convert.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_pieces
from localknobs.convert.special_tokens import read_special_tokens
from localknobs.convert.token_proof import SAMPLE
from localknobs.convert.vocabulary import prove, read_vocabulary
from localknobs.errors import BadFile, Unsupported
from localknobs.gguf_info import read_header

NO_FLAGS = ({}, {})


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def header_of(sheet, tmp_path):
    """Return the keys of a sheet as a reader of files sees them."""
    from localknobs.convert.gguf_header import header_bytes

    file = tmp_path / "keys.gguf"
    file.write_bytes(header_bytes(sheet.keys(), []))
    return read_header(file).metadata


# ---- byte-level BPE ----------------------------------------------------------------------------


def test_rows_without_a_token_are_padded_and_added_tokens_have_kinds(folder):
    write_tokenizer(folder, "bytes", 384)
    found = read_vocabulary(folder, 384, "bpe")
    assert found.model == "gpt2"
    assert len(found.texts) == len(found.kinds) == 384
    assert found.texts[383] == "[PAD383]"
    assert found.kinds[383] == UNUSED
    assert found.kinds[found.texts.index("<|im_start|>")] == CONTROL
    assert found.kinds[found.texts.index("<think>")] == USER_DEFINED
    assert found.kinds[100] == NORMAL
    assert all(merge.count(" ") == 1 for merge in found.merges)


def test_an_added_token_that_looks_special_is_one(folder):
    write_tokenizer(folder, "bytes")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if token["content"] == "<|im_start|>":
            token["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = read_vocabulary(folder, 384, "bpe")
    assert found.kinds[found.texts.index("<|im_start|>")] == CONTROL


def test_spaces_within_merges_are_written_as_letters(folder):
    write_tokenizer(folder, "bytes")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].append(["a b", "c"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert read_vocabulary(folder, 384, "bpe").merges[-1] == "aĠb c"


def test_a_tokenizer_of_another_kind(folder):
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {"a": 0}}}))
    with pytest.raises(Unsupported, match="WordPiece"):
        read_vocabulary(folder, 10, "bpe")


# ---- how it cuts -------------------------------------------------------------------------------


def test_rules_are_recognized_however_they_are_written():
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_CUTS}, "behavior": "Isolated", "invert": False}
    plain = {**byte_level, "use_regex": False}
    digits = {"type": "Digits", "individual_digits": True}
    removed = {**split, "behavior": "Removed", "invert": True}

    def first(pre_tokenizer, **model):
        return names_for(rules_of({"pre_tokenizer": pre_tokenizer, "model": model}))[0]

    def several(*parts):
        return {"type": "Sequence", "pretokenizers": [*parts]}

    assert first(byte_level) == "gpt-2"
    assert first(several(digits, byte_level)) == "smollm"
    assert first(several(split, plain)) == "dbrx"
    assert first(several(removed, plain)) == "dbrx"
    assert first(several(split, plain), ignore_merges=True) == "llama-bpe"
    qwen = {**split, "pattern": {"Regex": LLAMA3_CUTS.replace("{1,3}", "")}}
    assert first(several(qwen, plain)) == "qwen2"
    spelled = LLAMA3_CUTS.replace(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    )
    assert first(several({**split, "pattern": {"Regex": spelled}}, plain)) == "dbrx"


def test_a_known_fingerprint_decides_and_a_family_prefers():
    rules = rules_of({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}]}})  # fmt: skip
    assert names_for(rules)[0] == "smollm"
    assert names_for(rules, preferred=("refact",))[0] == "refact"
    assert names_for(rules, "35d91631860c" + "0" * 52)[0] == "starcoder"
    assert names_for(("something else",)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_NAME)
def test_llama_cpp_has_every_name(name, folder):
    from localknobs.convert.gguf_header import header_bytes
    from localknobs.engine.tokens import tokens_of

    write_tokenizer(folder, "bytes")
    found = read_vocabulary(folder, 384, "bpe")
    found.names = [name]
    sheet = Sheet("llama")
    found.add_to(sheet)
    (folder / "v.gguf").write_bytes(header_bytes(sheet.keys(), []))
    assert tokens_of(folder / "v.gguf", [("a", False)]) == [[found.texts.index("a")]]


def test_a_name_that_llama_cpp_does_not_have_is_its_own_reason(folder):
    write_tokenizer(folder, "bytes")
    found = read_vocabulary(folder, 384, "bpe")
    from localknobs.convert.gguf_header import header_bytes
    from localknobs.engine.tokens import tokens_of

    found.names = ["no such rules"]
    sheet = Sheet("llama")
    found.add_to(sheet)
    (folder / "v.gguf").write_bytes(header_bytes(sheet.keys(), []))
    with pytest.raises(BadFile, match="no such rules"):
        tokens_of(folder / "v.gguf", [("a", False)])


def test_the_fingerprint_is_over_tokens_with_those_put_around(folder):
    write_tokenizer(folder, "bytes")
    _, wrapped = own_encoder(folder / "tokenizer.json")
    tokens = wrapped(FINGERPRINT_TEXT)
    assert tokens[0] == 1
    assert fingerprint_of(tokens) != fingerprint_of(tokens[1:])
    assert len(fingerprint_of(tokens)) == 64


# ---- SentencePiece and byte fallback ------------------------------------------------------------


def test_pieces_keep_texts_scores_and_kinds(folder):
    write_tokenizer(folder, "pieces")
    pieces = read_pieces(folder / "tokenizer.model")
    found = read_vocabulary(folder, 384, "any")
    assert found.model == "llama"
    assert found.texts[: len(pieces)] == [piece.text for piece in pieces]
    assert found.scores is not None
    np.testing.assert_array_equal(found.scores[: len(pieces)], [piece.score for piece in pieces])
    assert [found.kinds[at] for at in (0, 3, 10, 300)] == [CONTROL, UNKNOWN, BYTE, NORMAL]
    assert found.kinds[383] == UNUSED
    assert found.scores[383] == -10000.0


def test_tokens_added_to_pieces(folder):
    write_tokenizer(folder, "pieces")
    (folder / "added_tokens.json").write_text(json.dumps({"<extra>": 380, "<beyond>": 999}))
    decoder = {
        "381": {"content": "<|tool|>", "special": False}, "382": {"content": "▁two▁words", "special": False},
        "383": {"content": "[CALL]", "special": True},
    }  # fmt: skip
    change_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)
    found = read_vocabulary(folder, 384, "any")
    assert found.texts[380:] == ["<extra>", "<|tool|>", " two words", "[CALL]"]
    assert found.kinds[380:] == [USER_DEFINED, CONTROL, USER_DEFINED, CONTROL]
    strict = read_vocabulary(folder, 384, "phi3")  # which believes marks only, and leaves texts alone
    assert strict.texts[382] == "▁two▁words"
    assert strict.kinds[381] == USER_DEFINED


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", b"\x0a\x05ab", b"hello", field(1, field(1, b"\xff"))])
def test_a_file_that_holds_no_pieces(content, folder):
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(BadFile, match="SentencePiece"):
        read_pieces(folder / "tokenizer.model")


@pytest.mark.parametrize("prefix", [False, True])
def test_byte_fallback_is_proved_with_and_without_a_space_before(prefix, folder):
    write_tokenizer(folder, "fallback", prefix=prefix)
    found = read_vocabulary(folder, 384, "any")
    assert found.space_prefix is prefix
    assert found.kinds[found.texts.index("<0x41>")] == BYTE
    flags = NO_FLAGS if prefix else ({}, {"tokenizer.ggml.add_space_prefix": False})
    assert prove(found, Sheet("llama"), flags, ()).proved


def test_scores_that_are_all_the_same_are_found_out(folder):
    write_tokenizer(folder, "fallback", prefix=True)
    found = read_vocabulary(folder, 384, "any")
    found.scores = [-1000.0] * 384
    with pytest.raises(BadFile, match=r"llama\.cpp would read text differently"):
        prove(found, Sheet("llama"), NO_FLAGS, ())


def test_merges_that_are_missing_are_found_out(folder):
    write_tokenizer(folder, "bytes")
    found = read_vocabulary(folder, 384, "bpe")
    found.merges = found.merges[:20]
    with pytest.raises(BadFile, match="the tokenizer goes on with"):
        prove(found, Sheet("llama"), NO_FLAGS, ())


def test_a_tokenizer_that_composes_letters_agrees_on_composed_texts(folder):
    write_tokenizer(folder, "bytes")
    change_json(folder / "tokenizer.json", normalizer={"type": "NFC"})  # as Qwen's; llama.cpp composes nothing
    assert all(unicodedata.is_normalized("NFC", text) for text in SAMPLE)
    assert prove(read_vocabulary(folder, 384, "bpe"), Sheet("llama"), NO_FLAGS, ()).proved


def test_an_added_letter_is_not_taken_for_a_byte(folder):
    write_tokenizer(folder, "bytes")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": 380, "content": "\u00f5", "special": False, "normalized": False})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert read_vocabulary(folder, 384, "bpe").texts[380] == "\u00f5"


def test_the_sample_is_hard():
    text = "".join(SAMPLE)
    for needed in "а中日한हไع٣😀é\t\r\n'\u200d\u3000½".replace("😀", "🚀"):
        assert needed in text
    assert any(line[:8] in CORPUS[0] for line in SAMPLE) is False  # nothing of what the tiny tokenizers were made of


# ---- roles and templates ------------------------------------------------------------------------


def test_roles_come_from_names_and_what_is_put_around_texts(folder):
    write_tokenizer(folder, "bytes")
    found = read_special_tokens(folder)
    assert found.ids == {"bos": 1, "eos": 2, "unk": 3, "pad": 0}
    assert found.added == {"bos": True, "sep": False}


def test_settings_say_whether_a_token_is_added_when_nothing_is_put_around(folder):
    write_tokenizer(folder, "bytes")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {"type": "ByteLevel"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    change_json(folder / "tokenizer_config.json", add_bos_token=True, add_eos_token=False)
    assert read_special_tokens(folder).added == {"bos": False, "eos": False}
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert read_special_tokens(folder).added == {"bos": True, "eos": False}


def test_a_text_that_ends_with_another_token_than_named(folder):
    write_tokenizer(folder, "bytes")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, special], "pair": [],
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = read_special_tokens(folder)
    assert found.ids["eos"] == 4
    assert found.ids["eot"] == 2
    assert found.added["eos"] is True


def test_config_fills_in_and_numbers_beyond_the_vocabulary_are_left_out(folder):
    write_tokenizer(folder, "bytes")
    change_json(folder / "tokenizer_config.json", eos_token=None, unk_token=None, pad_token=None)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 7, "pad_token_id": 999, "unk_token_id": [1, 2]}))
    assert read_special_tokens(folder, 384).ids == {"bos": 1, "eos": 7}
    assert read_special_tokens(folder).ids == {"bos": 1, "eos": 7, "pad": 999}


def test_one_template_or_several(folder, tmp_path):
    write_tokenizer(folder, "bytes")
    assert "m.role" in read_special_tokens(folder).templates
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool use.jinja").write_text("tools")
    sheet = Sheet("llama")
    read_special_tokens(folder).add_to(sheet)
    keys = header_of(sheet, tmp_path)
    assert keys["tokenizer.chat_template.tool_use"] == "tools"
    assert list(keys["tokenizer.chat_templates"]) == ["tool_use"]
    assert "m.role" in keys["tokenizer.chat_template"]
    change_json(folder / "tokenizer_config.json", chat_template="from the settings")
    assert read_special_tokens(folder).templates == "from the settings"


# ---- where a model comes from --------------------------------------------------------------------


def test_the_card_and_the_advice_on_sampling(tmp_path):
    folder = tmp_path / "Some-Model-7B-Instruct-v2"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: someone/Some-Base-7B\ntags:\n- chat\nlanguage: [en, no]\n---\n# Hi\n"
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05})
    )
    sheet = Sheet("llama")
    add_origin(sheet, folder, (7_000_000_000, 7_000_000_000, 0, 0))
    keys = header_of(sheet, tmp_path)
    assert keys["general.name"] == "Some Model 7B Instruct v2"
    assert keys["general.size_label"] == "7B"
    assert keys["general.license"] == "apache-2.0"
    assert keys["general.base_model.0.name"] == "Some Base 7B"
    assert keys["general.base_model.0.organization"] == "Someone"
    assert list(keys["general.languages"]) == ["en", "no"]
    assert keys["general.sampling.temp"] == pytest.approx(0.7)
    assert keys["general.sampling.top_k"] == 20
    assert keys["general.sampling.penalty_repeat"] == pytest.approx(1.05)


def test_a_card_that_is_no_yaml(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    with pytest.raises(BadFile, match=r"README\.md"):
        add_origin(Sheet("llama"), tmp_path, (1, 1, 0, 0))


def test_a_broken_advice_on_sampling_is_no_reason_to_stop(tmp_path):
    (tmp_path / "generation_config.json").write_text("{")
    sheet = Sheet("llama")
    add_origin(sheet, tmp_path, (1, 1, 0, 0), "A name")
    assert header_of(sheet, tmp_path)["general.name"] == "A name"


def test_the_tokenizer_in_a_process_of_its_own_cuts_as_the_library_does(tmp_path):
    write_tokenizer(tmp_path, "bytes", 384)
    file = tmp_path / "tokenizer.json"
    encode, wrapped = own_encoder(file)
    with contextlib.closing(OwnTokenizer(file)) as own:
        for text in (*SAMPLE, "", "a\nb"):
            assert own.encode(text) == encode(text) and own.encode_wrapped(text) == wrapped(text)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "BPE"'])
def test_a_tokenizer_that_is_none_is_said_at_the_first_question(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with (
        contextlib.closing(OwnTokenizer(file)) as own,
        pytest.raises(BadFile, match=r"tokenizer\.json is no tokenizer"),
    ):
        own.encode("x")


def test_a_tokenizer_process_that_is_gone_is_an_error_and_no_hang(tmp_path):
    write_tokenizer(tmp_path, "bytes", 384)
    with contextlib.closing(OwnTokenizer(tmp_path / "tokenizer.json")) as own:
        assert own.encode("x")
        own._child.kill()
        own._child.wait()
        with pytest.raises(BadFile, match="ends the tokenizers library"):
            own.encode("x")
