"""Tests of AN4's containers, identity and split; the real corpus is looked for in ../shared."""

import functools
import hashlib
import http.server
import io
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests
from ds2f.data.corpora import an4
from ds2f.errors import InputError

ARCHIVE = Path(__file__).parents[3].parent / "shared" / "data"
SPEAKERS = [f"m{letter}{letter}x" for letter in "abcdefghij"]
WORDS = ["YES", "RUBOUT G M E F THREE NINE", "A B"]


def fake_files(kind: str) -> dict[str, bytes]:
    """A small AN4: ten training speakers with three utterances each, one test speaker, in one container."""
    files = {"LICENSE": b"any use"}
    draw = np.random.default_rng(0)
    for split, folder, speakers in (("train", "an4_clstk", SPEAKERS), ("test", "an4test_clstk", ["fzzx"])):
        ids, lines = [], []
        for speaker in speakers:
            for index, words in enumerate(WORDS):
                name = f"an{index}-{speaker}-b"
                ids.append(f"{folder}/{speaker}/{name}")
                lines.append(f"<s> {words} </s> ({name})" if split == "train" else f"{words} ({name})")
                samples = draw.integers(-3000, 3000, 1600, dtype=np.int16)
                files[f"wav/{ids[-1]}.{kind}"] = contained(samples, kind)
        files[f"etc/an4_{split}.fileids"] = ("\n".join(ids) + "\n").encode()
        files[f"etc/an4_{split}.transcription"] = ("\n".join(lines) + "\n").encode()
    return files


def contained(samples: np.ndarray, kind: str) -> bytes:
    if kind == "raw":
        return samples.astype(">i2").tobytes()
    file = io.BytesIO()
    container, endian = ("NIST", "BIG") if kind == "sph" else ("WAV", "FILE")
    soundfile.write(file, samples, 16000, format=container, subtype="PCM_16", endian=endian)
    return file.getvalue()


def fake_identity() -> an4.Identity:
    """Worked out from the raw files, as the corpus's own digest is defined."""
    files = fake_files("raw")
    sounds = sorted(path for path in files if path.endswith(".raw"))
    words = [f"{path[4:-4]} {WORDS[int(path.rpartition('/an')[2][0])]}\n" for path in sounds]
    return an4.Identity(
        30,
        3,
        hashlib.sha256(b"".join(files[path] for path in sounds)).hexdigest(),
        hashlib.sha256("".join(words).encode()).hexdigest(),
    )


def write_tar(path: Path, files: dict[str, bytes], top: str = "an4/") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_tree(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def prepare(data_path: Path, archive: Path | None, **options):
    return an4.prepare(data_path, archive=archive, identity=fake_identity(), **options)


@pytest.mark.parametrize("kind", ["raw", "sph", "wav"])
@pytest.mark.parametrize("form", ["tar", "zip", "tree", "folder with a tar", "folder with a tree"])
def test_every_container_gives_the_same_corpus(tmp_path: Path, kind: str, form: str):
    files = fake_files(kind)
    if form == "zip":
        source = tmp_path / "an4-master.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"an4-master/{name}", content)
    elif form.endswith("tree"):
        source = tmp_path / "copy"
        write_tree(source / "an4" if form.startswith("folder") else source, files)
    else:
        source = write_tar(tmp_path / f"an4_{kind}.tar.gz", files)
        source = tmp_path if form.startswith("folder") else source
    corpus = prepare(tmp_path / "data", source)
    reference = prepare(tmp_path / "reference", write_tree(tmp_path / "raw_tree", fake_files("raw")))
    assert corpus.digest == reference.digest
    assert [part.utterances for part in corpus.parts] == [27, 3, 3]
    test = manifests.read(tmp_path / "data" / "an4_test_manifest.csv")
    assert [utterance.transcript for utterance in test] == WORDS


def test_a_second_run_checks_and_leaves_everything_as_it_is(tmp_path: Path):
    source = write_tar(tmp_path / "an4.tar.gz", fake_files("raw"))
    made = prepare(tmp_path / "data", source)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    found = prepare(tmp_path / "data", source)
    assert (made.reused, found.reused) == (False, True)
    assert found.parts == made.parts
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def without(name: str):
    return lambda files: files.pop(name)


def changed(name: str, old: bytes, new: bytes):
    return lambda files: files.update({name: files[name].replace(old, new, 1)})


SOUND = "wav/an4_clstk/maax/an1-maax-b.raw"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("etc/an4_train.fileids"), r"etc/ lacks an4_train\.fileids"),
        (without(SOUND), r"1 of 33 recordings are missing, first wav/an4_clstk/maax/an1-maax-b"),
        (lambda files: files.update({SOUND: files[SOUND][:-2] + b"\0\0"}), r"SHA-256 of all samples: \w+ instead of"),
        (changed("etc/an4_test.transcription", b"A B", b"A C"), r"SHA-256 of all transcripts: \w+ instead of"),
        (changed("etc/an4_test.transcription", b"YES", b"Y3S"), r"an4_test\.transcription:1: not 'WORDS \(id\)'"),
        (changed("etc/an4_test.transcription", b"an0-fzzx", b"an9-fzzx"), r"an4_test\.fileids:1: .*has no transcript"),
        (changed("etc/an4_test.fileids", b"an4test_clstk/fzzx/", b""), r"an4_test\.fileids:1: .*is not SET/SPEAKER"),
        (changed("etc/an4_test.fileids", b"an4test_clstk/fzzx/an0-fzzx-b\n", b""), "test utterances: 2 instead of 3"),
    ],
)
def test_a_copy_that_differs_is_refused_and_leaves_nothing(tmp_path: Path, change, message: str):
    files = fake_files("raw")
    change(files)
    with pytest.raises(InputError, match=message) as caught:
        prepare(tmp_path / "data", write_tar(tmp_path / "an4.tar.gz", files))
    assert "--archive=PATH" in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_archives_that_cannot_be_read_are_refused(tmp_path: Path):
    whole = write_tar(tmp_path / "whole.tar.gz", fake_files("raw"))
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:20000])
    page = tmp_path / "page.tar.gz"
    page.write_text("<html>not found</html>")
    (tmp_path / "empty").mkdir()
    for source, message in (
        (cut, "cut short"),
        (page, "not a readable archive"),
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "empty", "name the archive itself"),
    ):
        with pytest.raises(InputError, match=f"{source}.*{message}"):
            prepare(tmp_path / "data", source)


def test_a_wrong_sampling_rate_is_refused(tmp_path: Path):
    files = fake_files("wav")
    slow = io.BytesIO()
    soundfile.write(slow, np.zeros(100), 8000, format="WAV")
    files[SOUND.replace("raw", "wav")] = slow.getvalue()
    with pytest.raises(InputError, match=r"an1-maax-b\.wav: 8000 Hz"):
        prepare(tmp_path / "data", write_tree(tmp_path / "tree", files))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serves tmp_path/www; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_without_an_archive_the_first_mirror_that_has_one_is_used(tmp_path: Path, server: str):
    write_tar(tmp_path / "www" / "an4_sphere.tar.gz", fake_files("sph"))
    (tmp_path / "www" / "page.tar.gz").write_text("<html>moved</html>")
    mirrors = ("http://127.0.0.1:9/gone", f"{server}/404", f"{server}/page.tar.gz", f"{server}/an4_sphere.tar.gz")
    reports: list[tuple[str, int, int]] = []
    prepare(tmp_path / "data", None, mirrors=mirrors, progress=lambda *report: reports.append(report))
    assert len(manifests.read(tmp_path / "data" / "an4_train_manifest.csv")) == 27
    assert not list((tmp_path / "data").glob(".*"))
    size = (tmp_path / "www" / "an4_sphere.tar.gz").stat().st_size
    assert ("downloading", size, size) in reports


def test_without_any_mirror_the_message_says_what_to_fetch(tmp_path: Path, server: str):
    (tmp_path / "www" / "page").write_text("<html>log in first</html>")
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / "data", None, mirrors=("http://127.0.0.1:9/x", f"{server}/404", f"{server}/page"))
    message = str(caught.value)
    for part in ("Connection refused", "404", "not an archive", an4.MIRRORS[0], "--archive=PATH"):
        assert part in message
    assert not list((tmp_path / "data").iterdir())


def test_validation_speakers_are_always_the_same_and_have_a_tenth():
    utterances = {f"speaker{index}": 13 for index in range(74)}
    chosen = an4.validation_speakers(utterances)
    assert chosen == an4.validation_speakers(dict(reversed(utterances.items())))
    assert len(chosen) == 8
    more = {**utterances, "new": 13}
    assert len(chosen - an4.validation_speakers(more)) <= 1


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not ARCHIVE.is_dir():
        pytest.skip(f"the AN4 archive is not at {ARCHIVE}")
    data_path = tmp_path_factory.mktemp("an4")
    an4.prepare(data_path, archive=ARCHIVE)
    yield data_path
    shutil.rmtree(data_path)


def test_the_real_corpus_has_its_published_counts(real: Path):
    sets = {split: manifests.read(real / f"an4_{split}_manifest.csv") for split in ("train", "val", "test")}
    assert {split: len(utterances) for split, utterances in sets.items()} == {"train": 846, "val": 102, "test": 130}
    words = [utterance.transcript.split() for utterance in sets["test"]]
    assert sum(map(len, words)) == 773
    assert sum(len(word) for sentence in words for word in sentence) == 1922
    everything = [utterance for utterances in sets.values() for utterance in utterances]
    assert sum(utterance.duration for utterance in everything) / 60 == pytest.approx(48.4, abs=0.05)
    assert set("".join(utterance.transcript for utterance in everything)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")


def test_the_real_corpus_has_its_published_samples(real: Path):
    files = sorted((path for path in real.rglob("*.wav")), key=lambda path: path.stem)
    assert len({path.stem for path in files}) == 1078
    # The published order is by SET/SPEAKER/ID; the training set sorts before the test set, the speaker ends the id.
    order = sorted(files, key=lambda path: ("test" in path.parts, path.stem.split("-")[1], path.stem))
    digest = hashlib.sha256()
    for path in order:
        digest.update(soundfile.read(path, dtype="int16")[0].astype(">i2").tobytes())
    assert digest.hexdigest() == "6d265bf6f68cd66ab4ba41fed1da0a278e3510ec2c57f37f7b7d8a61a7a53537"


def test_no_speaker_is_in_two_sets(real: Path):
    speakers = {
        split: {path.stem.split("-")[1] for path in (real / "an4_dataset" / split / "wav").iterdir()}
        for split in ("train", "val", "test")
    }
    assert {split: len(names) for split, names in speakers.items()} == {"train": 66, "val": 8, "test": 10}
    assert len(set.union(*speakers.values())) == 84
