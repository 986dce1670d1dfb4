"""Tests of the synthetic corpus: its sentences, its voices, and that a seed says every sample."""

import ctypes
import importlib.util
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests
from ds2f.data.corpora import espeak, layout, synthetic
from ds2f.data.corpora.grammars import english
from ds2f.errors import InputError

FEW = {"train": 8, "val": 2, "test": 3}

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed"
)


def speak(sentences: list[espeak.Sentence], workers: int) -> list[bytes]:
    library, data, _ = synthetic._locate_espeak()
    with espeak.speaking(sentences, library=library, data=data, workers=workers) as speeches:
        return [speech.samples for speech in speeches]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@needs_espeak
def test_a_seed_gives_the_same_bytes_with_any_number_of_workers(tmp_path: Path):
    one = synthetic.prepare(tmp_path / "one", utterances=FEW, seed=5, workers=1)
    two = synthetic.prepare(tmp_path / "two", utterances=FEW, seed=5, workers=2)
    other = synthetic.prepare(tmp_path / "other", utterances=FEW, seed=6, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len({one.digest, two.digest, other.digest}) == 2


@needs_espeak
def test_a_voice_that_breathes_does_not_depend_on_the_second_of_the_clock():
    sentences = [espeak.Sentence("eleven", "en-us+f3", 160, 42, 47)] * 3
    first = speak(sentences, workers=1)
    time.sleep(1.1)
    assert speak(sentences, workers=2) == first
    assert len(set(first)) == 1


@needs_espeak
def test_a_second_run_finds_the_corpus_and_another_cast_or_seed_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = synthetic.prepare(tmp_path, utterances=FEW)
    assert synthetic.prepare(tmp_path, utterances=FEW).reused
    monkeypatch.setitem(synthetic.VOICES, "val", ("edward",))
    assert not synthetic.prepare(tmp_path, utterances=FEW).reused
    replaced = synthetic.prepare(tmp_path, utterances=FEW, seed=1)
    assert not replaced.reused
    assert replaced.digest != made.digest


@needs_espeak
def test_recordings_are_speech_of_plausible_length_and_level(tmp_path: Path):
    synthetic.prepare(tmp_path, utterances=FEW)
    for split, count in FEW.items():
        utterances = manifests.read(tmp_path / f"synthetic_{split}_manifest.csv")
        assert len(utterances) == count
        for utterance in utterances:
            samples, rate = soundfile.read(utterance.audio)
            words = len(utterance.transcript.split())
            assert rate == 16000
            assert 0.3 + 0.15 * words < utterance.duration < 1.0 + 0.8 * words
            assert 0.1 < np.abs(samples).max() <= 1.0
            assert 0 < np.std(samples[:1600]) < 0.001  # the room, before the words
            # CTC: a label per output frame (50 a second) and a blank between equal neighbours
            repeats = sum(first == second for first, second in itertools.pairwise(utterance.transcript))
            assert len(utterance.transcript) + repeats <= 50 * utterance.duration


@needs_espeak
def test_every_letter_is_said_by_its_name():
    path, data, _ = synthetic._locate_espeak()
    library = ctypes.CDLL(path)
    assert library.espeak_Initialize(2, 0, os.fsencode(data), 0x8000) > 0
    assert library.espeak_SetVoiceByName(b"en-us") == 0
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def phonemes(text: str) -> list[str]:
        buffer = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(buffer))
        clauses = []
        while rest.value:
            clauses.append(library.espeak_TextToPhonemes(ctypes.byref(rest), 1, 0).decode())
        return clauses

    said = phonemes(english.spoken_form(" ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ") + " THREE"))
    # espeak-ng's ASCII phonemes: A is eI as in "day", not the article's a2; Z is zi:, not zEd
    names = "eI bi: si: di: i: Ef dZi: eItS aI dZeI keI El Em En oU pi: kju: A@ Es ti: ju: vi: dVb@Lj,u: Eks waI zi:"
    assert [clause.replace("'", "") for clause in said] == [*names.split(), "Tri:"]
    assert phonemes("A three") != phonemes(english.spoken_form("A THREE"))
    assert phonemes(english.spoken_form("RUBOUT")) == phonemes("rub out")


def test_no_test_sentence_and_no_voice_is_in_another_set():
    lines = synthetic.script(0, synthetic.UTTERANCES)
    for first, second in itertools.combinations(layout.SPLITS, 2):
        for field in ("transcript", "speaker"):
            shared = {getattr(line, field) for line in lines if line.split == first} & {
                getattr(line, field) for line in lines if line.split == second
            }
            assert not shared, (first, second)
    assert {split: sum(line.split == split for line in lines) for split in layout.SPLITS} == synthetic.UTTERANCES
    assert len({line.key for line in lines}) == len(lines)


def test_the_script_depends_on_the_seed_alone():
    assert synthetic.script(3, FEW) == synthetic.script(3, FEW)
    sentences = [[line.transcript for line in synthetic.script(seed, FEW)] for seed in (3, 4)]
    assert sentences[0] != sentences[1]


def test_sentences_are_of_an4s_kind():
    lines = synthetic.script(0, {"train": 400, "val": 1, "test": 1})
    words = [word for line in lines for word in line.transcript.split()]
    assert set("".join(words)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert set("ABCDEFGHIJKLMNOPQRSTUVWXYZ") <= set(words)
    assert {"YES", "RUBOUT", "ENTER", "ZERO", "OH", "NINETEEN", "SEPTEMBER", "TWELFTH"} <= set(words)
    assert max(len(line.transcript.split()) for line in lines) <= 8


def test_more_sentences_than_the_grammar_has_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(english, "_KINDS", (english._alone,))
    with pytest.raises(InputError, match="no new sentences left; ask for fewer"):
        synthetic.script(0, {"train": 100, "val": 1, "test": 1})


def test_without_espeak_the_message_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"pip install 'ds2f\[quickstart\]'"):
        synthetic.prepare(tmp_path / "data", utterances=FEW)
    assert not (tmp_path / "data").exists()


@needs_espeak
def test_an_espeak_that_fails_is_reported_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "libespeak-ng.so"
    broken.write_text("not a library")
    monkeypatch.setattr(synthetic, "_locate_espeak", lambda: (str(broken), str(tmp_path), "0"))
    with pytest.raises(InputError, match=r"espeak-ng: .*libespeak-ng\.so.*install it again"):
        synthetic.prepare(tmp_path / "data", utterances=FEW)
    assert not list((tmp_path / "data").iterdir())


@needs_espeak
def test_a_long_path_to_espeaks_data_is_no_obstacle(tmp_path: Path):
    library, data, _ = synthetic._locate_espeak()
    far = tmp_path / ("long-" * 40) / "espeak-ng-data"
    far.parent.mkdir()
    far.symlink_to(data)
    sentence = espeak.Sentence("yes", "en-us+m1", 160, 50, 50)
    with espeak.speaking([sentence], library=library, data=str(far), workers=1) as speeches:
        assert [speech.samples for speech in speeches] == speak([sentence], workers=1)


@pytest.mark.parametrize("texts", [["600"], ["600", "60", "0"], ["600", "60", "x"], ["1", "1", "-1"], []])
def test_counts_that_are_no_counts_are_refused(texts: list[str]):
    with pytest.raises(InputError, match=r"--utterances=.*three numbers"):
        synthetic.parse_counts(texts)
    assert synthetic.parse_counts(["600", "60", "100"]) == {"train": 600, "val": 60, "test": 100}
