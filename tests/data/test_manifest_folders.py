"""Tests of folders as manifests: wav and txt side by side, suffixes, Kaldi's data folders."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests
from ds2f.errors import InputError


def record(path: Path, seconds: float = 0.1, **how: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.ones(int(16000 * seconds)) / 2, 16000, **how)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def texts(path: Path) -> list[tuple[str, str]]:
    return [(each.audio.relative_to(path).as_posix(), each.transcript) for each in manifests.read(path)]


@pytest.mark.parametrize(("sounds", "words"), [("wav", "txt"), ("", ""), ("ann", "ann"), ("wav/a.b", "txt/a.b")])
@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        (".WAV", {}),
        (".wave", {"format": "WAV"}),
        (".opus", {"format": "OGG", "subtype": "OPUS"}),
        (".aiff", {}),
        (".Flac", {}),
    ]
    + [(".oga", {"format": "OGG", "subtype": "VORBIS"}), (".au", {}), (".w64", {}), (".caf", {})],
)
def test_every_suffix_that_soundfile_reads_is_a_recording(
    tmp_path: Path, suffix: str, how: dict, sounds: str, words: str
):
    record(tmp_path / sounds / f"x{suffix}", **how)
    write(tmp_path / words / "x.txt", "HELLO")
    assert texts(tmp_path) == [((Path(sounds) / f"x{suffix}").as_posix(), "HELLO")]


@pytest.mark.parametrize("below", ["", "/part", "/deep/part"])
def test_linked_folders_are_part_of_a_manifest(tmp_path: Path, below: str):
    record(tmp_path / "elsewhere/wav/x.wav")
    write(tmp_path / "elsewhere/txt/x.txt", "HI")
    for kind in ("wav", "txt"):
        link = tmp_path / f"corpus/{kind}{below}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "elsewhere" / kind)
    assert texts(tmp_path / "corpus") == [(f"wav{below}/x.wav", "HI")]


def test_recordings_in_formats_that_nobody_reads_are_counted_by_suffix_with_the_remedy(tmp_path: Path, caplog):
    record(tmp_path / "wav" / "a.wav")
    record(tmp_path / "wav" / "b.wav")
    for name in ("a", "b"):
        write(tmp_path / "txt" / f"{name}.txt", "HELLO")
    for name in ("b.m4a", "c.m4a", "d.M4A", "e.wma"):  # b.wav is b.m4a's conversion
        write(tmp_path / "wav" / name, "no audio")
    write(tmp_path / "wav" / "readme.md", "no recording")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path) == [("wav/a.wav", "HELLO"), ("wav/b.wav", "HELLO")]
    assert "2 .m4a, 1 .wma: convert them (ffmpeg -i NAME.m4a NAME.wav)" in caplog.text
    write(tmp_path / "txt" / "c.txt", "LOST")
    with pytest.raises(InputError, match=r"1 of 3 rows.*(?s:.*)c\.m4a: \.m4a files cannot be read: convert it"):
        manifests.read(tmp_path)


def test_a_folder_of_such_formats_alone_says_so(tmp_path: Path):
    for kind, suffix in (("wav", ".m4a"), ("txt", ".lab")):
        write(tmp_path / kind / f"a{suffix}", "x")
    with pytest.raises(InputError, match=r"a\.m4a: \.m4a files cannot be read: convert it \(ffmpeg"):
        manifests.read(tmp_path)
    (tmp_path / "txt" / "a.lab").unlink()
    with pytest.raises(InputError, match=r"names no recordings.*1 \.m4a: convert them"):
        manifests.read(tmp_path)


def test_a_recording_without_a_transcript_beside_it_is_a_problem(tmp_path: Path):
    record(tmp_path / "a.wav")
    record(tmp_path / "b.flac")
    write(tmp_path / "b.lab", "HELLO")
    with pytest.raises(InputError, match=r"1 of 2 rows.*(?s:.*)a\.txt: No such file"):
        manifests.read(tmp_path)


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        record(tmp_path / "audio" / f"{name}.flac", 2.0)
    write(tmp_path / "wav.scp", f"ann-1 audio/one.flac\nbob-2\t{tmp_path}/audio/two.flac\n")
    write(tmp_path / "text", "ann-1 Hello  there\nbob-2 No\n")
    return tmp_path


def test_a_kaldi_folder_is_read(kaldi: Path):
    assert texts(kaldi) == [("audio/one.flac", "Hello there"), ("audio/two.flac", "No")]


def test_paths_of_kaldi_may_count_from_the_current_folder(kaldi: Path, monkeypatch: pytest.MonkeyPatch):
    (kaldi / "data" / "train").mkdir(parents=True)
    for name in ("wav.scp", "text"):
        (kaldi / name).rename(kaldi / "data" / "train" / name)
    monkeypatch.chdir(kaldi)
    assert [each.audio for each in manifests.read("data/train")] == [kaldi / "audio/one.flac", kaldi / "audio/two.flac"]


@pytest.mark.parametrize(
    "command", ["touch ran; cat audio/one.flac |", "sph2pipe -f wav a.sph|", "cat audio/one.flac | sox - -t wav - |"]
)
def test_commands_in_wav_scp_are_refused_and_never_executed(kaldi: Path, monkeypatch, command: str):
    monkeypatch.chdir(kaldi)
    write(kaldi / "wav.scp", f"ann-1 {command}\nbob-2 audio/two.flac\n")
    with pytest.raises(InputError, match=r"wav\.scp:1: a command, .*never executed.*write its output to a WAV file"):
        manifests.read(kaldi)
    assert not (kaldi / "ran").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("text", "ann-1 Hello\n", r"wav\.scp:2: 'bob-2' has no line in .*text"),
        ("text", "ann-1 Hello\nbob-2 No\nbob-2 Yes\n", r"text:3: 'bob-2' is there a second time"),
        ("segments", "ann-1 ann-1 0.5\nbob-2 bob-2 0 2\n", r"segments:1: a line is UTTERANCE RECORDING START END"),
        ("segments", "ann-1 ann-1 1.5 0.5\nbob-2 bob-2 0 2\n", r"segments:1: the part from 1\.5 to 0\.5 s is empty"),
        ("segments", "ann-1 eve-3 0 1\nbob-2 bob-2 0 2\n", r"segments:1: 'eve-3' has no line in wav\.scp"),
    ],
)
def test_what_is_wrong_in_a_kaldi_folder_is_named_by_line(kaldi: Path, file: str, content: str, message: str):
    write(kaldi / file, content)
    with pytest.raises(InputError, match=message):
        manifests.read(kaldi)


def test_a_part_of_a_kaldi_folder_names_the_folder(kaldi: Path):
    (kaldi / "wav.scp").with_name("feats.scp").touch()
    for name in ("wav.scp", "feats.scp"):
        with pytest.raises(InputError, match=rf"{name}: a part of a data folder of Kaldi's; name the folder, {kaldi}$"):
            manifests.read(kaldi / name)


def test_segments_that_are_whole_recordings_are_read(kaldi: Path):
    write(kaldi / "segments", "ann-1 ann-1 0 2.0\nbob-2 bob-2 0.0 1.9\n")
    assert [transcript for _, transcript in texts(kaldi)] == ["Hello there", "No"]


def test_kaldis_speakers_are_read(tmp_path: Path):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.ones(16000) / 2, 16000)
    (tmp_path / "wav.scp").write_text("a a.wav\nb b.wav\n")
    (tmp_path / "text").write_text("a YES\nb NO\n")
    (tmp_path / "utt2spk").write_text("a ann\n")
    assert [(each.transcript, each.speaker) for each in manifests.read(tmp_path)] == [("YES", "ann"), ("NO", "")]
    (tmp_path / "segments").write_text("u1 a 0.5 1.0\nu2 b 0 0.25\n")
    (tmp_path / "text").write_text("u1 YES\nu2 NO\n")
    (tmp_path / "utt2spk").write_text("u1 ann\nu2 bob\n")
    found = manifests.read(tmp_path)
    assert [(each.start, each.duration, each.speaker) for each in found] == [(0.5, 0.5, "ann"), (0.0, 0.25, "bob")]
