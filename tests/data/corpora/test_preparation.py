"""Tests of published corpora, on miniatures of their layouts with the faults that they have."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.config import Config, DataConfig, read_labels
from ds2f.data import audio, manifest_opening, manifests
from ds2f.data.corpora import flac_copies, preparation, readers
from ds2f.data.corpora.preparation import Choices, PreparedCorpus
from ds2f.data.manifest_paths import manifest_path
from ds2f.errors import InputError

RATE = 16000


def sound(path: Path, seconds: float = 0.5) -> Path:
    """A recording of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE))
    soundfile.write(path, samples, RATE, format="NIST" if path.suffix == ".sph" else None)
    return path


def note(path: Path, *lines: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)


def librispeech(folder: Path) -> None:
    for part, speaker in (
        ("train-clean-100", "19"),
        ("train-other-500", "20"),
        ("dev-clean", "84"),
        ("test-other", "5"),
    ):
        chapter = folder / "LibriSpeech" / part / speaker / "198"
        for number in range(2):
            sound(chapter / f"{speaker}-198-{number:04}.flac", 0.5 + number)
        texts = (f"{speaker}-198-0000 NORTHANGER ABBEY", f"{speaker}-198-0001 IT ISN'T  MINE")
        note(chapter / f"{speaker}-198.trans.txt", *texts)
    chapter = folder / "LibriSpeech/train-clean-100/19/198"
    note(folder / "LibriSpeech/SPEAKERS.TXT", "; ID | SEX | SUBSET | MINUTES | NAME")
    with (chapter / "19-198.trans.txt").open("a") as table:
        table.write("19-198-0002 LOST\n../../../etc/passwd OUT\n19-198-0003\n19-198-0004 CUT SHORT\n")
    sound(chapter / "19-198-0003.flac")
    (chapter / "19-198-0004.flac").write_bytes(b"fLaC")


def aishell1(folder: Path) -> None:
    lines = []
    for part, speaker in (("train", "S0002"), ("train", "S0003"), ("dev", "S0724"), ("test", "S0764")):
        for number in range(2):
            id = f"BAC009{speaker}W{number:04}"
            sound(folder / "data_aishell/wav" / part / speaker / f"{id}.wav")
            lines.append(f"{id} 而 对 楼市{'成交' * number} 抑制 作用")
    sound(folder / "data_aishell/wav/train/S0002/BAC009S0002W0179.wav")
    note(folder / "data_aishell/transcript/aishell_transcript_v0.8.txt", *lines)


def commonvoice(folder: Path) -> None:
    language = folder / "cv-corpus-22.0-2025-06-20" / "de"
    for part, client in (("train", "c1"), ("dev", "c2"), ("test", "c3")):
        rows = [f"{client}\tcommon_voice_de_{part}{number}.mp3\tid\t{text}\t2" for number, text in enumerate(TEXTS)]
        rows.append(f"{client}\t../../secret.mp3\tid\tHinaus.\t2")
        rows.append(f"{client}\tcommon_voice_de_{part}2")
        note(language / f"{part}.tsv", "client_id\tpath\tsentence_id\tsentence\tup_votes", *rows)
        for number in range(2):
            sound(language / "clips" / f"common_voice_de_{part}{number}.mp3")
    sound(folder / "cv-corpus-22.0-2025-06-20" / "secret.mp3")


TEXTS = ('"Er sagte ""ja""."', "Zwölf Straßen, sagt's.")


def voxforge(folder: Path) -> None:
    sessions = [
        *(f"anonymous-2007080{day}-abc" for day in range(1, 4)),
        "bob-20070805-de1",
        "bob-20070806-de2",
        "ann-20070805-x",
    ]
    for session in sessions:
        kind = "flac" if session.startswith("ann") else "wav"
        for number in range(2):
            sound(folder / session / kind / f"de{number}.{kind}")
        note(folder / session / "etc/PROMPTS", f"{session}/mfc/de0 EINS ZWEI", f"{session}/mfc/de1  DREI")
        note(folder / session / "etc/prompts-original", "de0 Eins, zwei", "de1 Drei")
    note(folder / "odd-20070805-y/etc/PROMPTS", "odd-20070805-y/mfc/de0 F\u00dcNF", encoding="latin-1")


def prepare(name: str, source: Path, data_path: Path, *, columns=None, cfg=None, **choices) -> PreparedCorpus:
    destination = preparation.of_corpus(name, data_path)
    return preparation.prepare(name, source, destination, Choices(**choices), cfg=cfg or DataConfig(), columns=columns)


def prepared(name: str, tmp_path: Path, **choices) -> PreparedCorpus:
    globals()[name](tmp_path / "source")
    return prepare(name, tmp_path / "source", tmp_path / "data", **choices)


def tedlium3(folder: Path) -> None:
    """The published layout: openslr.org/51, the legacy distribution."""
    root = folder / "TEDLIUM_release-3" / "legacy"
    for part, talk in (("train", "911Mothers_2010W"), ("dev", "AlGore_2009"), ("test", "AimeeMullins_2009P")):
        sound(root / part / "sph" / f"{talk}.sph", 6.0)
        note(
            root / part / "stm" / f"{talk}.stm",
            ";; CATEGORY header",
            f"{talk} 1 inter_segment_gap 0 0.5 <o,,unknown> ignore_time_segment_in_scoring",
            f"{talk} 1 {talk} 0.5 2.25 <o,f0,female> it 's what we {{NOISE}} said(2) <sil> , don 't",
            f"{talk} 1 {talk} 2.25 4.00 <F0_M> the <unk> word",
            f"{talk} 1 {talk} 4.00 5.5 <o,f0,male> hello",
            f"{talk} 1 {talk} 5.5 9 <o,f0,male> beyond the end",
            f"{talk} 1 {talk} 5 4 <o,f0,male> backwards",
            f"{talk} 1 {talk} soon 4 <o,f0,male> no number",
            f"../{talk} 1 {talk} 0 4 <o,f0,male> climbs",
            f"{talk} 1 {talk} 5.5 6 <o,f0,male>",
        )


def texts(corpus: PreparedCorpus) -> dict[str, list[str]]:
    """The transcripts of every set, as training reads them."""
    return {split: [each.transcript for each in manifests.read(path)] for split, path in corpus.manifests.items()}


def test_librispeech(tmp_path: Path):
    corpus = prepared("librispeech", tmp_path)
    both = ["NORTHANGER ABBEY", "IT ISN'T MINE"]
    assert texts(corpus) == {"train": both * 2, "val": both, "test": both}
    assert [(part.utterances, part.speakers, part.seconds) for part in corpus.parts] == [
        (4, 2, 4),
        (2, 1, 2),
        (2, 1, 2),
    ]
    assert {why: found.number for why, found in corpus.left_out.items()} == {
        "in malformed rows": 1,
        "whose recording is missing": 1,
        "without words": 1,
        "whose recording cannot be read": 1,
    }
    assert read_labels(str(corpus.labels_path)) == corpus.labels == ("_", *sorted(set(" '" + "".join(both))))
    only = prepare("librispeech", tmp_path / "source", tmp_path / "few", subset=("train-other-500", "dev-clean"))
    assert texts(only) == {"train": both, "val": both}
    with pytest.raises(InputError, match="no part train-clean-360; --subset can name dev-clean, test-other, train-cl"):
        prepare("librispeech", tmp_path / "source", tmp_path, subset=("train-clean-360",))


def test_aishell1_has_characters_and_no_spaces(tmp_path: Path):
    corpus = prepared("aishell1", tmp_path)
    assert texts(corpus)["train"] == ["而对楼市抑制作用", "而对楼市成交抑制作用"] * 2
    assert [part.utterances for part in corpus.parts] == [4, 2, 2]
    assert corpus.labels == ("_", *sorted("而对楼市成交抑制作用"))
    assert [*corpus.left_out] == ["without a transcript"]


def test_aishell1_whose_inner_archives_are_packed_says_how_to_unpack_them(tmp_path: Path):
    note(tmp_path / "data_aishell/transcript/aishell_transcript_v0.8.txt", "BAC009S0002W0122 而")
    (tmp_path / "data_aishell/wav").mkdir()
    (tmp_path / "data_aishell/wav/S0002.tar.gz").touch()
    with pytest.raises(InputError, match="tar -xzf"):
        prepare("aishell1", tmp_path, tmp_path)


def test_common_voice_keeps_its_sets_and_opens_nothing_outside_its_clips(tmp_path: Path):
    corpus = prepared("commonvoice", tmp_path)
    expected = ['Er sagte "ja".', "Zwölf Straßen, sagt's."]
    assert texts(corpus) == dict.fromkeys(("train", "val", "test"), expected)
    assert {"ß", "ö", "'", " "} < {*corpus.labels}
    assert not {'"', ",", "."} & {*corpus.labels}
    assert {why: found.number for why, found in corpus.left_out.items()} == {"in malformed rows": 6}


def test_a_language_of_common_voice_is_chosen(tmp_path: Path):
    commonvoice(tmp_path / "source")
    release = tmp_path / "source/cv-corpus-22.0-2025-06-20"
    note(release / "br/train.tsv", "client_id\tpath\tsentence")
    (release / "br/clips").mkdir()
    with pytest.raises(InputError, match="br, de are here; name one with --subset"):
        prepare("commonvoice", tmp_path / "source", tmp_path)
    corpus = prepare("commonvoice", release, tmp_path, subset=("de",))
    assert [part.utterances for part in corpus.parts] == [2, 2, 2]


def test_ted_liums_talks_are_used_in_parts(tmp_path: Path):
    corpus = prepared("tedlium3", tmp_path)
    words = ["it's what we said , don't", "hello"]
    assert texts(corpus) == dict.fromkeys(("train", "val", "test"), words)
    rows = [json.loads(line) for line in corpus.manifests["test"].read_text().splitlines()]
    talk = "AimeeMullins_2009P"
    assert [row.pop("audio_filepath") for row in rows] == [
        str(tmp_path / "source/TEDLIUM_release-3/legacy/test/sph" / f"{talk}.sph")
    ] * 2
    assert rows == [
        {"offset": 0.5, "duration": 1.75, "text": words[0], "speaker": talk, "lang": "en"},
        {"offset": 4.0, "duration": 1.5, "text": words[1], "speaker": talk, "lang": "en"},
    ]
    assert {why: found.number for why, found in corpus.left_out.items()} == {
        "in malformed rows": 9,
        "with <unk>, a word that is not known": 3,
        "that are no part of their recordings": 3,
        "without words": 3,
    }
    listed = corpus.left_out_path.read_text().splitlines()
    assert len(listed) == 18
    assert sum("6.0 s long, the row says 9.0 s" in line for line in listed) == 3


def test_the_mark_of_an_unknown_word_can_be_removed_instead(tmp_path: Path):
    corpus = prepared("tedlium3", tmp_path, unknown_words="remove", subset=("train", "dev"))
    assert texts(corpus)["train"] == ["it's what we said , don't", "the word", "hello"]
    assert corpus.manifests.keys() == {"train", "val"}


def test_ted_lium_without_its_legacy_training_set_is_read_from_data(tmp_path: Path):
    tedlium3(tmp_path / "source")
    root = tmp_path / "source/TEDLIUM_release-3"
    (root / "legacy/train").rename(root / "data")
    assert len(texts(prepare("tedlium3", root, tmp_path / "data"))["train"]) == 2


def test_utterances_are_pruned_by_duration(tmp_path: Path):
    corpus = prepared("librispeech", tmp_path, min_duration=0.6)
    assert texts(corpus) == {"train": ["IT ISN'T MINE"] * 2, "val": ["IT ISN'T MINE"], "test": ["IT ISN'T MINE"]}
    assert corpus.left_out["that are too short"].number == 4
    corpus = prepare("librispeech", tmp_path / "source", tmp_path / "data", max_duration=0.6)
    assert texts(corpus)["train"] == ["NORTHANGER ABBEY"] * 2
    assert corpus.left_out["that are too long"].number == 4


def test_copies_are_cut_whole_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = manifests.read(prepared("tedlium3", tmp_path).manifests["train"])
    corpus = prepare("tedlium3", tmp_path / "source", tmp_path / "data", copies=True)
    cut = manifests.read(corpus.manifests["train"])
    for each, copy in zip(plain, cut, strict=True):
        assert copy.audio.is_relative_to(tmp_path / "data" / "tedlium3_dataset")
        assert (copy.transcript, copy.start) == (each.transcript, None)
        original, _ = soundfile.read(each.audio, dtype="int16")
        samples, rate = soundfile.read(copy.audio, dtype="int16")
        begin = round(each.start * RATE)
        np.testing.assert_array_equal(samples, original[begin : begin + round(each.duration * RATE)])
        assert rate == RATE

    cut[0].audio.unlink()  # as after an interruption
    written = []
    original_write = flac_copies.write_atomically
    monkeypatch.setattr(
        flac_copies, "write_atomically", lambda path, *more: written.append(path) or original_write(path, *more)
    )
    again = prepare("tedlium3", tmp_path / "source", tmp_path / "data", copies=True)
    assert written == [cut[0].audio]
    assert manifests.read(again.manifests["train"]) == cut


def test_a_copy_of_a_recording_with_a_long_name_has_a_name_that_file_systems_take(tmp_path: Path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("語" * 80, "語" * 79, "語" * 78):  # 240 bytes, of 255
        soundfile.write(folder / f"{name}.wav", np.zeros(4000, np.int16) + 99, RATE)
        (folder / f"{name}.txt").write_text("好")
    corpus = prepare("folder", folder, tmp_path / "data", copies=True)
    assert corpus.left_out == {}
    assert {manifests.read(path)[0].audio.name[:33] for path in corpus.manifests.values()} == {"語" * 33}


def test_an_interrupted_reading_of_headers_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest_opening, "_AT_ONCE", 2)
    librispeech(tmp_path / "source")
    whole = texts(prepare("librispeech", tmp_path / "source", tmp_path / "whole"))
    read, info = [], audio.info

    def counted(path: Path) -> audio.Info:
        read.append(path)
        if len(read) == 7:
            raise KeyboardInterrupt
        return info(path)

    monkeypatch.setattr(audio, "info", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare("librispeech", tmp_path / "source", tmp_path / "data", workers=1)
    journal = tmp_path / "data" / ".librispeech_lengths.jsonl"
    noted = [json.loads(line)[0] for line in journal.read_text().splitlines()]
    assert set(noted) == {str(path) for path in read[: len(noted)]}
    assert 4 <= len(noted) < 7
    with journal.open("a") as file:
        file.write('["cut sho')
    sound(Path(noted[0]), 0.75)  # has changed meanwhile
    read[:] = [Path()] * 100
    corpus = prepare("librispeech", tmp_path / "source", tmp_path / "data", workers=1)
    again = set(map(str, read[100:]))
    assert again.isdisjoint(noted[1:])
    assert noted[0] in again
    assert texts(corpus) == whole
    assert not journal.exists()


def test_voxforge_is_divided_by_speakers_always_in_the_same_way(tmp_path: Path):
    corpus = prepared("voxforge", tmp_path)
    speakers = {}
    for split, path in corpus.manifests.items():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        speakers[split] = {row["speaker"] for row in rows}
        assert {row["text"] for row in rows} == {"EINS ZWEI", "DREI"}
    assert sum(part.utterances for part in corpus.parts) == 12
    assert sum(map(len, speakers.values())) == len(set.union(*speakers.values())) == 5, "no speaker is in two sets"
    assert [*corpus.left_out] == ["in tables that cannot be read"]
    again = prepare("voxforge", tmp_path / "source", tmp_path / "data")
    assert texts(again) == texts(corpus)


@pytest.mark.parametrize("name", readers.CORPORA)
def test_training_finds_the_manifests_by_the_name_of_the_corpus(name: str, tmp_path: Path):
    corpus = prepared(name, tmp_path)
    cfg = Config(data_path=str(tmp_path / "data"), data=DataConfig(dataset=name))
    assert {split: manifest_path(cfg, split) for split in ("train", "val", "test")} == corpus.manifests
    for path in corpus.manifests.values():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert all({"audio_filepath", "duration", "text", "speaker"} <= row.keys() for row in rows)
        assert all(Path(row["audio_filepath"]).is_relative_to(tmp_path / "source") for row in rows), "nothing is copied"


@pytest.mark.parametrize("name", readers.CORPORA)
def test_a_folder_without_the_corpus_says_what_to_fetch(name: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"Fetch .*(openslr|mozilla|voxforge)\.org"):
        prepare(name, tmp_path, tmp_path)


@pytest.mark.parametrize("name", readers.CORPORA)
def test_tables_have_a_largest_size(name: str, tmp_path: Path):
    globals()[name](tmp_path / "source")
    with pytest.raises(InputError, match=r"max_manifest_bytes|no utterance"):
        prepare(name, tmp_path / "source", tmp_path, cfg=DataConfig(max_manifest_bytes=10))
