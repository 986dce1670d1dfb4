"""Tests of the grammars of the synthetic corpus: their numbers, their characters, and the corpora made of them."""

import ctypes
import hashlib
import importlib.util
import json
import os
import random
import re
import unicodedata
from pathlib import Path

import pytest

from ds2f.config import BLANK, Config, DataConfig, resolve
from ds2f.data import manifests
from ds2f.data.corpora import synthetic
from ds2f.data.corpora.grammars import GRAMMARS, german, mandarin, spanish
from ds2f.runner.splits import Split

FEW = {"train": 30, "val": 2, "test": 2}

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed"
)


def sentences(language: str, number: int = 2000) -> list[str]:
    return [GRAMMARS[language].sentence(random.Random(seed)) for seed in range(number)]


@needs_espeak
@pytest.mark.parametrize(("voice", "number", "end"), [("cmn", mandarin.number, 100), ("de", german.number, 40),
                                                      ("es", spanish.number, 100)])  # fmt: skip
def test_espeak_reads_digits_as_the_grammars_words(voice: str, number, end: int):
    path, data, _ = synthetic._locate_espeak()
    library = ctypes.CDLL(path)
    assert library.espeak_Initialize(2, 0, os.fsencode(data), 0x8000) > 0
    assert library.espeak_SetVoiceByName(voice.encode()) == 0
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def phonemes(text: str) -> str:
        """Without stress and tone, which espeak-ng sets otherwise in words of several digits."""
        rest = ctypes.c_void_p(ctypes.addressof(buffer := ctypes.create_string_buffer(text.encode())))
        said = ""
        while rest.value:
            said += library.espeak_TextToPhonemes(ctypes.byref(rest), 1, 0).decode()
        assert buffer
        said = said.lower().replace("j", "i").replace("td", "d")
        return re.sub(r"[^a-z@]", "", said)

    for value in range(end):
        assert phonemes(str(value)) == phonemes(number(value)), value


def test_numbers_in_characters_are_read_back():
    units = {"千": 1000, "百": 100, "十": 10}

    def value(written: str) -> int:
        total, digit = 0, 0
        for character in written:
            if character in units:
                total += max(digit, not total) * units[character]  # 十五: the one is not written
                digit = 0
            else:
                digit = "零一二三四五六七八九".index(character)
        return total + digit

    assert [value(mandarin.number(number)) for number in range(10_000)] == list(range(10_000))
    for number in range(10_000):
        written = mandarin.number(number)
        assert "零零" not in written
        assert number in (0, 10) or not written.endswith("零")
        assert ("零" in written[1:]) == bool(re.search("[1-9]0+[1-9]", str(number))), written


def test_german_numbers_are_read_back():
    names = ("ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
    ones = {name: one for one, name in enumerate(names, start=1)}
    rest = {"null": 0, "eins": 1, "zehn": 10, "elf": 11, "zwölf": 12, "sechzehn": 16, "siebzehn": 17}
    rest |= {f"{name}zehn": 10 + one for name, one in ones.items() if one in (3, 4, 5, 8, 9)}
    tens = ("zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig")
    rest |= {name: 10 * ten for ten, name in enumerate(tens, start=2)}

    def value(word: str) -> int:
        if "hundert" in word:
            hundreds, _, below = word.partition("hundert")
            return 100 * ones[hundreds] + (value(below) if below else 0)
        if "und" in word:
            first, _, second = word.partition("und")
            return ones[first] + rest[second]
        return rest[word] if word in rest else ones[word]

    assert [value(german.number(number)) for number in range(1000)] == list(range(1000))


@pytest.mark.parametrize(("language", "letters"), [("cmn", ""), ("de", "äöüß"), ("es", "áéíóúñ")])
def test_sentences_are_in_the_letters_of_their_language(language: str, letters: str):
    found = set("".join(sentences(language)))
    if language == "cmn":
        assert all(unicodedata.name(character).startswith("CJK UNIFIED") for character in found)
        assert 150 < len(found) < 300  # a small model learns them in minutes
    else:
        assert set(letters) < found <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜ " + letters)
    assert len(set(sentences(language))) > 1000


def test_the_english_corpus_is_what_it_was_before_other_languages():
    lines = synthetic.script(0, synthetic.UTTERANCES)
    script = repr((lines, [synthetic._direction(line, "en") for line in lines]))
    digest = hashlib.sha256(script.encode()).hexdigest()
    assert digest == "cbc78ef33604900e3ad8850cf486c7648c6744da596944f11d456c3d7f5006c9"


@needs_espeak
def test_corpora_of_several_languages_lie_side_by_side_with_labels_that_spell_them(tmp_path: Path):
    for language in ("en", "cmn", "de"):
        made = synthetic.prepare(tmp_path, utterances=FEW, language=language)
        assert made.name == ("synthetic" if language == "en" else f"synthetic_{language}")
        assert (made.labels_path is None) == (language == "en")
    for language in ("cmn", "de"):
        labels = tmp_path / f"synthetic_{language}_labels.json"
        said = [each.transcript for each in manifests.read(tmp_path / f"synthetic_{language}_train_manifest.csv")]
        spelt = "".join(said) if language == "cmn" else "".join(said).lower()
        assert json.loads(labels.read_text()) == [BLANK, *sorted(set(spelt))]
        data = DataConfig(dataset=f"synthetic_{language}", labels_path=str(labels))
        split = Split.read("train", resolve(Config(data_path=str(tmp_path), data=data)))
        assert list(split.references.values()) == (said if language == "cmn" else [text.lower() for text in said])
        labels.unlink()
        assert synthetic.prepare(tmp_path, utterances=FEW, language=language).reused
        assert labels.exists()
