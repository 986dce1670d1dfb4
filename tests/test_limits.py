"""Sizes from outside are limits: whatever a file promises, it is refused in seconds and within little memory."""

import gzip
import io
import json
import lzma
import os
import resource
import select
import shutil
import signal
import tarfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import arpa
import numpy as np
import pytest
import soundfile
import torch

from ds2f import checkpoint, config, steps
from ds2f.checkpoint import Checkpoints, integrity, leaves
from ds2f.checkpoint.orbax_io import ArrayStore
from ds2f.config import Config, DataConfig, ModelConfig
from ds2f.data import audio, dataset, manifests
from ds2f.data.containers import mp3_frames
from ds2f.data.corpora import an4, archives
from ds2f.data.language_model import open_language_model
from ds2f.errors import InputError
from ds2f.optim import adamw

pytestmark = pytest.mark.filterwarnings("ignore:os.fork")  # the child calls one function, and starts no thread

MB = 1 << 20
SECONDS = 20.0  # of a refusal, on a busy machine; it takes a fraction of this alone


class Refusal(NamedTuple):
    message: str
    seconds: float
    peak: int  # bytes more than before


def memory(field):
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def refusal(call, *, within):
    """Calls a function in a process that may take ``within`` bytes more; returns how it refused."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        try:
            limit = memory("VmSize") + within + 64 * MB  # thread stacks and heaps are mapped, too
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            before, began = memory("VmRSS"), time.monotonic()
            try:
                call()
                message = "accepted"
            except InputError as error:
                message = str(error)
            except BaseException as error:  # noqa: BLE001  told by the parent
                message = f"raised {error!r}"
            found = (message, time.monotonic() - began, max(0, memory("VmHWM") - before))
            os.write(send, json.dumps(found).encode()[: 1 << 16])
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        if not select.select([pipe], [], [], 3 * SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    assert said, f"ended with status {status}"
    found = Refusal(*json.loads(said))
    print(f"{found.seconds:.2f} s, {found.peak / MB:.0f} MB: {found.message[:200]}")
    assert found.seconds < SECONDS
    assert found.peak <= within
    return found


# Archives


def header(name, size, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def bomb(path, first, gigabytes=12.8):
    """A tar.gz whose first header is followed by zeros: gzip streams may be joined, so it is made in no time."""
    zeros = gzip.compress(bytes(64 * MB), compresslevel=9)
    with path.open("wb") as file:
        file.write(gzip.compress(first))
        for _ in range(int(gigabytes * 1024 / 64)):
            file.write(zeros)
    return path


@pytest.mark.parametrize("name", ["an4/wav/a/b/c.raw", "an4/nobody/wants/this"])
def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, name):
    path = bomb(tmp_path / "an4.tar.gz", header(name, 12 << 30))
    assert path.stat().st_size < 28 * MB
    found = refusal(lambda: an4.prepare(tmp_path / "data", archive=path), within=64 * MB)
    for part in (str(path), "536,870,912 bytes", "--max_unpacked_bytes"):
        assert part in found.message
    assert found.seconds < 5
    assert not list((tmp_path / "data").glob("*")) or not list((tmp_path / "data").glob("*manifest*"))


def test_the_metadata_of_an_archive_counts_too(tmp_path):
    path = bomb(tmp_path / "an4.tar.gz", header("././@PaxHeader", 8 << 30, tarfile.XHDTYPE), gigabytes=2)
    limits = archives.Limits(unpacked_bytes=64 * MB)
    found = refusal(lambda: an4.prepare(tmp_path / "data", archive=path, limits=limits), within=256 * MB)
    assert "--max_unpacked_bytes" in found.message


def test_an_archive_packed_with_another_program_is_refused_too(tmp_path):
    path = tmp_path / "an4.tar.xz"
    path.write_bytes(lzma.compress(header("an4/wav/a/b/c.raw", 12 << 30) + bytes(640 * MB), preset=0))
    found = refusal(lambda: an4.prepare(tmp_path / "data", archive=path), within=64 * MB)
    assert "--max_unpacked_bytes" in found.message


def test_a_zip_that_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "an4.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(10):
            archive.writestr(f"an4/wav/a/b/{index}.raw", bytes(64 * MB))
    found = refusal(lambda: an4.prepare(tmp_path / "data", archive=path), within=16 * MB)
    assert "--max_unpacked_bytes" in found.message


def test_an_archive_of_a_million_members_is_refused(tmp_path):
    zipped, tarred, tree = tmp_path / "an4.zip", tmp_path / "an4.tar.gz", tmp_path / "an4"
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("a", b"")
    entry = empty.getvalue()
    directory = entry[entry.index(b"PK\x01\x02") : entry.index(b"PK\x05\x06")]
    end = entry[entry.index(b"PK\x05\x06") :]
    zipped.write_bytes(entry[: entry.index(b"PK\x01\x02")] + 1_000_000 * directory + end)
    tarred.write_bytes(gzip.compress(40_000 * header("a", 0), compresslevel=1))
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/an4_train.fileids").touch()
    for path, limits in ((zipped, archives.Limits()), (tarred, archives.Limits()), (tree, archives.Limits(members=1))):
        found = refusal(
            lambda path=path, limits=limits: an4.prepare(tmp_path / "data", archive=path, limits=limits),
            within=320 * MB,
        )
        assert "--max_members" in found.message


def test_a_recording_in_an_archive_that_is_packed_once_more_counts_as_unpacked(tmp_path):
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(32 * MB, np.int16), 16000, format="FLAC")
    path = tmp_path / "an4.tar"
    with tarfile.open(path, "w") as archive:
        for index in range(10):
            member = tarfile.TarInfo(f"an4/wav/a/b/{index}.wav")
            member.size = len(sound.getvalue())
            archive.addfile(member, io.BytesIO(sound.getvalue()))
    limits = archives.Limits(unpacked_bytes=100 * MB)
    found = refusal(lambda: an4.prepare(tmp_path / "data", archive=path, limits=limits), within=256 * MB)
    assert "--max_unpacked_bytes" in found.message


# Recordings


@pytest.fixture(scope="module")
def hour(tmp_path_factory):
    """An hour of silence, in a file of some kilobytes."""
    path = tmp_path_factory.mktemp("hour") / "hour.flac"
    with soundfile.SoundFile(path, "w", samplerate=16000, channels=1, subtype="PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(60 * 16000, np.int16))
    assert path.stat().st_size < MB
    return path


def test_an_hour_of_silence_is_refused_before_it_is_decoded(hour):
    found = refusal(lambda: audio.load(hour), within=8 * MB)
    assert found.seconds < 1
    for part in (str(hour), "3,600 s", "1,800 s", "--data.max_recording_seconds"):
        assert part in found.message


def test_an_hour_of_silence_is_refused_before_training_and_may_be_left_out(hour, tmp_path):
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "m.csv").write_text(f"{hour},a.txt\n")
    cfg = config.resolve(Config(data_path=str(tmp_path)))

    def build(**data):
        chosen = config.resolve(Config(data=DataConfig(cache_features=False, **data)))
        return dataset.build(manifests.read(tmp_path / "m.csv", cfg=cfg.data), chosen, train=True)

    with pytest.raises(InputError, match=r"hour\.flac.*max_recording_seconds.*max_duration"):
        build()
    with pytest.raises(InputError, match=r"left out, longer than data\.max_duration"):
        build(max_duration=60.0)
    assert len(build(max_recording_seconds=3600.0).examples) == 1


def test_a_header_that_tells_too_little_does_not_let_a_longer_recording_in(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.random.default_rng(0).standard_normal(16000 * 60) * 0.1, 16000, format="MP3")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Xing", b"XXXX").replace(b"Info", b"XXXX"))
    found = refusal(lambda: audio.load(path, max_seconds=20), within=64 * MB)
    assert "the limit is 20 s" in found.message


@pytest.mark.parametrize(("rate", "channels"), [(655_350, 8), (48_000, 1024), (192_000, 256)])
def test_high_rates_and_many_channels_stay_within_the_memory_of_the_limit(tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    with path.open("wb") as file:  # a sparse file: no byte of it takes room on the disk
        size = 2 * channels * rate * 60
        file.write(b"RIFF" + (36 + size & 0xFFFFFFFF).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\x01\0")
        file.write(channels.to_bytes(2, "little") + rate.to_bytes(4, "little"))
        file.write(
            (2 * channels * rate & 0xFFFFFFFF).to_bytes(4, "little") + (2 * channels & 0xFFFF).to_bytes(2, "little")
        )
        file.write(b"\x10\0data" + (size & 0xFFFFFFFF).to_bytes(4, "little"))
        file.truncate(44 + size)
    found = refusal(lambda: audio.load(path, max_seconds=10), within=128 * MB)
    assert "a.wav" in found.message


def test_channels_are_mixed_block_by_block_with_the_same_bits(tmp_path, monkeypatch):
    samples = np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    np.testing.assert_array_equal(audio.load(tmp_path / "a.wav").samples, samples.mean(axis=1, dtype=np.float32))


def test_an_ogg_file_of_gigabytes_is_checked_page_by_page(tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.zeros(16000), 16000, format="OGG")
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    found = refusal(lambda: audio.load(path), within=16 * MB)
    assert "is missing or broken" in found.message


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xf3\x10\xc4" + bytes(20), b"\xff\xf3\x14\xc4" + bytes(20)])
def test_a_large_mp3_that_is_none_or_has_tiny_frames_is_given_up(tmp_path, monkeypatch, filling):
    monkeypatch.setattr(mp3_frames, "_MOST_FRAMES", 400_000)  # of 4,000,000, which take some seconds
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.zeros(16000), 16000, format="MP3")
    frames = path.read_bytes()[1000:]  # without the index
    path.write_bytes(frames[frames.index(b"\xff\xf3") :] + filling * (128 * MB // len(filling)))
    for function in (audio.info, audio.load):
        found = refusal(lambda function=function: function(path), within=64 * MB)
        assert "a.mp3: " in found.message
        assert found.message.endswith(("copy it again", "cut the recording"))


# Texts


def sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def pair(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(16000, np.int16), 16000)
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "m.csv").write_text("a.wav,a.txt\n")
    return tmp_path


def test_a_transcript_of_300_megabytes_is_refused(pair):
    sparse(pair / "a.txt", 300 * MB)
    found = refusal(lambda: manifests.read(pair / "m.csv"), within=16 * MB)
    for part in ("a.txt", "314,572,800 bytes", "1,048,576 bytes", "--data.max_text_bytes"):
        assert part in found.message


@pytest.mark.parametrize("name", ["m.csv", "m.json"])
def test_a_manifest_of_gigabytes_is_refused(pair, name):
    sparse(pair / name, 3 << 30)
    found = refusal(lambda: manifests.read(pair / name), within=16 * MB)
    for part in (name, "3,221,225,472 bytes", "268,435,456 bytes", "--data.max_manifest_bytes"):
        assert part in found.message


def test_a_row_of_a_manifest_of_many_megabytes_is_refused(pair):
    (pair / "m.csv").write_text("a" * (32 << 20) + ",a.txt\n")
    found = refusal(lambda: manifests.read(pair / "m.csv"), within=256 * MB)
    assert "m.csv:1" in found.message
    assert len(found.message) < 1000


@pytest.mark.parametrize("name", ["a.txt", "m.csv", "a.wav"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(pair, name):
    (pair / name).unlink()
    os.mkfifo(pair / name)
    found = refusal(lambda: manifests.read(pair / "m.csv"), within=16 * MB)
    assert found.seconds < 5
    assert name in found.message


def test_labels_of_many_megabytes_are_refused(tmp_path):
    path = sparse(tmp_path / "labels.json", 300 * MB)
    found = refusal(lambda: config.read_labels(str(path)), within=16 * MB)
    for part in ("labels.json", "314,572,800 bytes", "1,048,576 bytes", "--data.max_text_bytes"):
        assert part in found.message
    (tmp_path / "deep.json").write_text(500_000 * "[")
    assert "deep.json" in refusal(lambda: config.read_labels(str(tmp_path / "deep.json")), within=64 * MB).message


def test_a_message_about_a_long_transcript_is_short(pair):
    (pair / "a.txt").write_text("".join(map(chr, range(0x4E00, 0x9FFF))) * 10, encoding="utf-8")
    cfg = config.resolve(Config(data=DataConfig(cache_features=False)))
    found = refusal(lambda: dataset.build(manifests.read(pair / "m.csv"), cfg, train=True), within=64 * MB)
    assert "outside the labels" in found.message
    assert len(found.message) < 2000


# Language models

HEAD = (
    "\\data\\\nngram 1={}\nngram 2={}\n\n\\1-grams:\n-1\t<unk>\t0\n-9\t<s>\t-0.3\n-1\t</s>\n{}\n"
    "\\2-grams:\n-0.5\t<s> A\n\n\\end\\\n"
)
WORD = "-1\tA\t-0.3\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEAD.format(-4, 1, WORD), "'ngram 1=-4'"),
        (HEAD.format(4, -1, WORD), "'ngram 2=-1'"),
        (HEAD.format(10**17, 1, WORD), "promises 100,000,000,000,000,001 n-grams"),
        (HEAD.format(4, 10**9, WORD), "promises 1,000,000,004 n-grams"),
        (HEAD.format("9" * 40, 1, WORD), "ngram 1=9999"),
        (HEAD.format(5, 1, WORD + f"-1\t{'A' * 60_000}\t-0.3\n"), "a word of 60,000 characters"),
        (HEAD.format(5, 1, WORD + f"-1\t{'A' * 2_000_000}\t-0.3\n"), "longer than 65,536 bytes"),
        (HEAD.format(4, 1, WORD) + "A" * 200_000_000, "longer than 65,536 bytes"),
    ],
    ids=["negative", "negative bigrams", "too many", "more than fit", "overflow", "word", "megabyte word", "line"],
)
def test_counts_and_words_that_would_end_the_process_in_the_library_are_refused(tmp_path, content, says):
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")
    path = tmp_path / "lm.arpa"
    path.write_text(content)
    found = refusal(lambda: open_language_model(path, "_A "), within=32 * MB)
    assert says in found.message
    assert "lm.arpa" in found.message
    assert len(found.message) < 500


def test_a_pipe_in_place_of_a_language_model_is_refused(tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")
    os.mkfifo(tmp_path / "lm.arpa")
    assert "not a file" in refusal(lambda: open_language_model(tmp_path / "lm.arpa", "_A "), within=16 * MB).message
    arpa.write(tmp_path / "good.arpa", arpa.WORDS)
    assert open_language_model(tmp_path / "good.arpa", "_AB ")[0] == "words"


# Folders of runs

CFG = config.resolve(Config(model=ModelConfig(hidden_size=8, hidden_layers=2)))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run with one checkpoint."""
    folder = tmp_path_factory.mktemp("original") / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    written = Checkpoints(folder, cfg=CFG)
    written.save(1, steps.init_state(CFG, adamw(0.1), key=0), {"epoch": 1}, score=1.0)
    assert written.close()
    return folder


@pytest.fixture
def run(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "run"))


def test_a_run_from_elsewhere_is_read(run):
    params = checkpoint.load_model(run)[1]
    assert torch.equal(params["output"]["weight"], steps.init_state(CFG, adamw(0.1), key=0).params["output"]["weight"])


def load(run):
    return lambda: checkpoint.load_model(run, warn=lambda _: None)


@pytest.mark.parametrize("name", ["config.json", "checkpoints/1/run.json", "checkpoints/1/digests.json"])
@pytest.mark.parametrize("kind", ["pipe", "large", "deep"])
def test_a_file_about_a_run_that_is_none_or_too_large_is_refused(run, name, kind):
    path = run / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        sparse(path, 100 * MB)
    else:
        path.write_text(1_000_000 * "[")
    if name.endswith("run.json") and kind != "pipe":
        (run / "checkpoints/1/digests.json").unlink()
        integrity.write(type(Checkpoints(run)._folder)(run / "checkpoints/1"))
    found = refusal(load(run), within=64 * MB)
    assert path.name in found.message
    assert "raised" not in found.message


@pytest.mark.parametrize("to", ["/", "/dev/zero", ".", "/etc/passwd"])
def test_a_link_in_a_checkpoint_is_refused(run, to):
    (run / "checkpoints/1/state/more").symlink_to(to)
    found = refusal(load(run), within=16 * MB)
    assert "more: a link" in found.message


def rewritten(run, **changes):
    """A run whose files promise other sizes, with digests that fit."""
    path = run / "checkpoints/1/run.json"
    stored = json.loads(path.read_text())
    stored["leaves"] |= changes
    path.write_text(json.dumps(stored))
    (run / "checkpoints/1/digests.json").unlink()
    integrity.write(type(Checkpoints(run)._folder)(run / "checkpoints/1"))


def configured(run, **model):
    stored = json.loads((run / "config.json").read_text())
    stored["model"] |= model
    (run / "config.json").write_text(json.dumps(stored))


@pytest.mark.parametrize(
    "model",
    [
        {"hidden_size": 65536},
        {"hidden_layers": 1000},
        {"num_bins": 10**9},
        {"lookahead_context": 10000, "bidirectional": False},
    ],
    ids=str,
)
def test_a_size_in_the_configuration_is_compared_before_it_is_allocated(run, model):
    configured(run, **model)
    found = refusal(load(run), within=16 * MB)
    assert "of another model" in found.message


@pytest.mark.parametrize(
    "leaf",
    [["float32", [10**9, 10**9]], ["float32", [-1]], ["load", [29, 8]], ["float32", "x"], None, ["float32", [1e9]]],
    ids=str,
)
def test_a_size_in_run_json_is_compared_before_it_is_allocated(run, leaf):
    rewritten(run, **{"params/output/weight": leaf})
    found = refusal(load(run), within=16 * MB)
    assert "params/output/weight" in found.message


def test_an_array_of_another_size_than_promised_is_not_allocated(run, monkeypatch):
    folder = type(Checkpoints(run)._folder)(run / "checkpoints/1/state")
    store = ArrayStore()
    names = store.shapes(folder)
    assert names["params/output/weight"] == (29, 8)
    arrays = store.restore(folder, names) | {"params/output/weight": np.zeros((29, 9), np.float32)}
    shutil.rmtree(folder)
    store.save(folder, arrays)
    store.close()
    rewritten(run)
    with pytest.raises(
        InputError, match=r"params/output/weight is stored as \(29, 9\); run.json beside it says \(29, 8\)"
    ):
        load(run)()


def test_arrays_that_take_more_than_their_files_hold_are_not_allocated(run, monkeypatch):
    """Blocks that are missing in the store read as zeros, so that a small file may promise a large array."""
    monkeypatch.setattr(integrity, "total_bytes", lambda folder: 0)
    monkeypatch.setattr(leaves, "_SLACK", 1000)
    with pytest.raises(InputError, match=r"its arrays would take [\d,]+ bytes; files of this size hold 1,000 at most"):
        load(run)()
