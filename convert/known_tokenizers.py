"""Tokenizers that llama.cpp's converter knows by a fingerprint, and what it calls their pre-tokenizers.

Several names share one set of rules in llama.cpp; the fingerprint tells which of them a file has when
llama.cpp's own converter writes it. A tokenizer that is not listed gets its name from its rules
(`pretokenizer.py`).

Source: conversion/base.py (get_vocab_base_pre) of llama.cpp, as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

FINGERPRINT_DIGITS = 12
"""Hexadecimal digits of the fingerprint that are kept; no two of the known tokenizers share them."""

_KNOWN: dict[str, str] = {
    "chatglm-bpe": "b6e8e1518dc4 81d72c7348a9",
    "glm4": "a1336059768a 9ca2dd618e8a cdf5f3532578",
    "minerva-7b": "1431a23e583c",
    "hunyuan": "7e57df22b1fe",
    "hunyuan-dense": "bba3b3366b64",
    "hy_v4": "e6ddf9c66867",
    "falcon-h1": "a6b57017d60e 60476e124377 3eda48b4c4dc 48f8e02c0359",
    "kimi-k2": "81212dc7cdb7",
    "qwen2": "d4540891389e e636dc30a262",
    "qwen35": "1444df51289c d30d75d9059f",
    "grok-2": "66b8d4e19ab1",
    "jina-v2-de": "b3d1dd861f1d 27949a2493fc",
    "gpt-2": "0fe1cf6eda06 3ce83efda565",
    "lfm2": "9e454714343b 169bf0296a13",
    "gemma4": "846deafc5b0f",
    "spark2_5": "0a766d034107",
    "llama-bpe": "0ef9807a4087",
    "deepseek-llm": "049ecf762987",
    "deepseek-coder": "347715f54460",
    "falcon": "8aeee3860c56",
    "jina-v2-en": "0876d13b5074",
    "falcon3": "9d032fcbd550",
    "bert-bge-large": "8e6229583275",
    "olmo": "b6dc8df998e1",
    "starcoder": "35d91631860c",
    "stablelm2": "32d85c31273f",
    "refact": "6221ad2852e8",
    "command-r": "9c2227e4dd92",
    "tiny_aya": "d772b220ace2",
    "cohere2moe": "52df12b4c8d4",
    "dbrx": "a8594e3edff7",
    "jina-v1-en": "c7699093ba42",
    "jina-v2-es": "171aeeedd6fb",
    "jina-v5-nano": "a023e9fdc5a1",
    "smaug-bpe": "c136ed14d01c",
    "poro-chat": "c7ea5862a53e",
    "jina-v2-code": "7967bfa498ad",
    "viking": "7fc505bd3104",
    "jais": "b53802fb28e2",
    "jais-2": "bc5108ee1eb6",
    "codeshell": "7b3e7548e430",
    "tekken": "63b97e425335",
    "smollm": "855059429035",
    "bloom": "3c30d3ad1d6b",
    "gpt3-finnish": "bc01ce58980e",
    "exaone": "4e2b24cc4770",
    "phi-2": "fcace8b9cac3",
    "chameleon": "60824e3c0d94",
    "roberta-bpe": "8b5a93ed7040",
    "gigachat": "ad851be1dba6",
    "megrez": "d4c8f286ea6b",
    "deepseek-v3": "877081d19cf6",
    "deepseek-r1-qwen": "b3f499bb4255",
    "gpt-4o": "ccc2ef013c10",
    "superbpe": "7dec86086fcc",
    "trillion": "1994ffd01900",
    "bailingmoe": "96a5f08be625",
    "llama4": "d353350c764d",
    "pixtral": "0e9433cbbb16",
    "seed-coder": "d5f1dd6f980f",
    "a.x-4.0": "b0a6b1c0bd59",
    "midm-2.0": "f6791d196f87",
    "exaone4": "2085e1638f6c",
    "mellum": "a1e163ecab2e",
    "modern-bert": "a0b64b4385f1",
    "afmoe": "49fc0303c9e0",
    "bailingmoe2": "9b1be57e70d2",
    "granite-docling": "53e325976a6e",
    "minimax-m2": "f4f37b6c8eb9",
    "kormo": "4a2e2abae11c",
    "youtu": "9d70134b369a",
    "solar-open": "16389f0a1f51",
    "exaone-moe": "6c81ce329e08",
    "joyai-llm": "b4b8ca1f9769",
    "kanana2": "e4d54df1ebc1",
    "f2llmv2": "862f827721df",
    "sarvam-moe": "62f6fb0a6fd5",
    "talkie": "f728162c1315",
    "minicpm5": "36f3066e97b7",
    "granite-embed-multi-97m": "f24107214567",
    "granite-embed-multi-311m": "789696f5946c",
    "mellum2": "9dcf830ee999",
    "laguna": "972da7b59cec",
    "ufakzeka": "653660222fb7",
}

NAME_OF_FINGERPRINT: dict[str, str] = {
    fingerprint: name for name, fingerprints in _KNOWN.items() for fingerprint in fingerprints.split()
}
"""The first digits of a fingerprint to llama.cpp's name of the pre-tokenizer."""
