"""Tests of publishing a corpus: all of it or nothing, and found again only as it was written."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests
from ds2f.data.corpora import layout
from ds2f.data.corpora.layout import Recording
from ds2f.errors import InputError

ROOT = Path(__file__).parents[3]
ORIGIN = {"seed": 1}


def recordings(count: int = 2) -> list[Recording]:
    return [
        Recording(split, f"{split}{index}", f"speaker{index}", "GO ON", np.arange(160 * (index + 1), dtype=np.int16))
        for split in layout.SPLITS
        for index in range(count)
    ]


def publish(folder: Path, what: list[Recording] | Iterator[Recording]) -> layout.Corpus:
    return layout.publish(what, folder, name="toy", origin=ORIGIN, verdict="fine")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_published_corpus_reads_back_through_its_manifests(tmp_path: Path):
    corpus = publish(tmp_path, recordings())
    for part in corpus.parts:
        read = manifests.read(tmp_path / f"toy_{part.split}_manifest.csv")
        assert [utterance.audio.stem for utterance in read] == [f"{part.split}0", f"{part.split}1"]
        assert [utterance.transcript for utterance in read] == ["GO ON", "GO ON"]
        assert (part.utterances, part.speakers, part.words, part.characters) == (2, 2, 4, 8)
        assert part.seconds == pytest.approx(0.03)
        samples, rate = soundfile.read(read[1].audio, dtype="int16")
        assert rate == 16000
        np.testing.assert_array_equal(samples, np.arange(320))


def test_publishing_twice_gives_the_same_files_in_any_order(tmp_path: Path):
    first = publish(tmp_path / "a", recordings())
    second = publish(tmp_path / "b", recordings()[::-1])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first.digest == second.digest


def test_a_corpus_is_found_again_with_its_facts(tmp_path: Path):
    made = publish(tmp_path, recordings())
    found = layout.existing(tmp_path, name="toy", origin=ORIGIN)
    assert found is not None
    assert found.reused
    assert (found.parts, found.digest, found.verdict) == (made.parts, made.digest, "fine")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "toy_val_manifest.csv").unlink(),
        lambda folder: (folder / "toy_val_manifest.csv").write_text("other.wav,other.txt\n"),
        lambda folder: (folder / "toy_dataset/val/wav/val0.wav").unlink(),
        lambda folder: (folder / "toy_dataset/val/txt/val0.txt").write_text("STOP"),
        lambda folder: (folder / "toy_dataset/val/wav/val1.wav").write_bytes(b"RIFF"),
        lambda folder: (folder / "toy_dataset/corpus.json").write_text("{}"),
        lambda folder: (folder / "toy_dataset/corpus.json").write_text("[1"),
        lambda folder: (folder / "toy_dataset/corpus.json").unlink(),
    ],
)
def test_a_damaged_corpus_is_not_taken_for_a_whole_one(tmp_path: Path, damage):
    whole = contents(tmp_path) if publish(tmp_path, recordings()) else {}
    damage(tmp_path)
    assert layout.existing(tmp_path, name="toy", origin=ORIGIN) is None
    publish(tmp_path, recordings())
    assert contents(tmp_path) == whole


def test_another_origin_or_an_empty_folder_is_not_the_corpus(tmp_path: Path):
    assert layout.existing(tmp_path / "none", name="toy", origin=ORIGIN) is None
    publish(tmp_path, recordings())
    assert layout.existing(tmp_path, name="toy", origin={"seed": 2}) is None


def test_an_error_on_the_way_leaves_the_earlier_corpus_and_no_rubbish(tmp_path: Path):
    publish(tmp_path, recordings())
    before = contents(tmp_path)

    def failing() -> Iterator[Recording]:
        yield from recordings()[:3]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path, failing())
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "toy_dataset",
        "toy_test_manifest.csv",
        "toy_train_manifest.csv",
        "toy_val_manifest.csv",
    ]


def test_a_kill_half_way_leaves_nothing_that_looks_complete(tmp_path: Path):
    program = """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from ds2f.data.corpora import layout

        def recordings():
            for index in range(10):
                if index == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield layout.Recording("train", str(index), "s", "GO", np.zeros(100, np.int16))

        layout.publish(recordings(), Path(sys.argv[1]), name="toy", origin={"seed": 1}, verdict="fine")
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".partial_toy_dataset"]
    assert layout.existing(tmp_path, name="toy", origin=ORIGIN) is None
    publish(tmp_path, recordings())
    assert not list(tmp_path.glob(".partial*"))
    assert layout.existing(tmp_path, name="toy", origin=ORIGIN) is not None


def test_a_kill_between_folder_and_manifests_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    publish(tmp_path, recordings(3))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(layout.manifests, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, recordings())
    assert not list(tmp_path.glob("*_manifest.csv"))
    assert layout.existing(tmp_path, name="toy", origin=ORIGIN) is None


def test_two_recordings_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="train0: two recordings"):
        publish(tmp_path, [*recordings(), recordings()[0]])


def test_a_data_path_that_is_no_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"--data_path={path}: .*name a folder"):
            publish(path, recordings())
