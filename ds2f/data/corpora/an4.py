"""AN4: Carnegie Mellon's alphanumeric recordings of 1991, from a copy in any of its containers."""

import hashlib
import http.client
import io
import re
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from ds2f.data.corpora import archives, layout
from ds2f.errors import InputError

NAME = "an4"
MIRRORS = (
    "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",
    "https://huggingface.co/datasets/espnet/an4/resolve/main/an4_sphere.tar.gz",
    "https://codeload.github.com/cmusphinx/an4/tar.gz/refs/heads/master",
)
VALIDATION_SHARE = 0.1  # of the training utterances, by whole speakers

_LIMITS = archives.Limits()
_TIMEOUT = 10.0  # seconds without an answer
_LISTS = {f"an4_{split}.{kind}" for split in ("train", "test") for kind in ("fileids", "transcription")}
_SOUNDS = {".raw", ".sph", ".wav"}
_FILE_ID = re.compile(r"\w+/(?P<speaker>\w+)/(?P<id>[\w-]+)")
_TRANSCRIPTION = re.compile(r"(?:<s>)?(?P<words>[A-Z' ]*)(?:</s>)?\s*\((?P<id>[^()\s]+)\)\s*")


class Identity(NamedTuple):
    """Counts and digests that identify a copy of AN4, whatever its container."""

    train: int  # utterances
    test: int
    recordings: str  # SHA-256 over the samples as big-endian int16, in the order of the sorted file ids
    transcripts: str  # SHA-256 over lines of "FILE_ID WORDS", in the same order


AN4 = Identity(
    train=948,
    test=130,
    recordings="6d265bf6f68cd66ab4ba41fed1da0a278e3510ec2c57f37f7b7d8a61a7a53537",
    transcripts="2224f9dcee6578fad5d7c84d823538483952a8c0e47ac915990d34a4292fd9ac",
)


class _Listed(NamedTuple):
    """An utterance as the file lists of the corpus name it."""

    file_id: str  # an4_clstk/SPEAKER/ID
    split: str  # train or test
    transcript: str

    @property
    def speaker(self) -> str:
        return self.file_id.split("/")[1]


def prepare(
    data_path: Path,
    *,
    archive: Path | None = None,
    identity: Identity = AN4,
    mirrors: tuple[str, ...] = MIRRORS,
    limits: archives.Limits = _LIMITS,
    progress: layout.Progress = layout.silent,
) -> layout.Corpus:
    """Makes AN4's training, validation and test sets in ``data_path``, unless they are there already.

    The training utterances of some speakers, always the same, become the validation set (deepspeech.pytorch draws
    utterances at random, unseeded, so that its two sets share speakers); the test set is the corpus's own.

    Args:
      data_path: where manifests and recordings go.
      archive: the published archive (raw big-endian, NIST SPHERE or WAV; tar or zip), its unpacked tree, or a folder
        with either inside; None: download it.
      identity: the counts and digests that the copy must have.
      mirrors: addresses to try without ``archive``.
      limits: of the archive, unpacked.
      progress: called with the activity, the number done and the total (0: unknown).

    Raises:
      InputError: no copy was found or could be downloaded, or it is not AN4 as published; the message has the
        difference.
    """
    origin = {"corpus": NAME, **identity._asdict(), "validation_share": VALIDATION_SHARE}
    if found := layout.existing(data_path, name=NAME, origin=origin):
        return found
    if archive is None:
        layout.make_folder(data_path)
        with tempfile.TemporaryDirectory(prefix=".download_", dir=data_path) as folder:
            copy = _download(mirrors, Path(folder), limits.unpacked_bytes, progress)
            listed, sounds = _read(copy, limits, progress)
    else:
        copy = archives.locate(archive, marker="an4_train.fileids", pattern="*an4*")
        listed, sounds = _read(copy, limits, progress)
    _verify(copy, listed, sounds, identity)
    verdict = (
        f"Complete and genuine: {identity.train} training and {identity.test} test utterances; samples and transcripts "
        "have the digests of the published corpus. Validation speakers come out of the training speakers."
    )
    return layout.publish(_recordings(listed, sounds, progress), data_path, name=NAME, origin=origin, verdict=verdict)


def validation_speakers(utterances: Mapping[str, int]) -> set[str]:
    """The speakers of the validation set: in the order of their names' SHA-256, until they have a tenth.

    Args:
      utterances: the number of training utterances of each speaker.
    """
    chosen: set[str] = set()
    wanted = VALIDATION_SHARE * sum(utterances.values())
    for speaker in sorted(utterances, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if sum(utterances[name] for name in chosen) >= wanted:
            break
        chosen.add(speaker)
    return chosen


def _recordings(
    listed: list[_Listed], sounds: Mapping[str, bytes], progress: layout.Progress
) -> Iterator[layout.Recording]:
    held_out = validation_speakers(Counter(entry.speaker for entry in listed if entry.split == "train"))
    for done, entry in enumerate(listed, start=1):
        split = "val" if entry.split == "train" and entry.speaker in held_out else entry.split
        samples: NDArray[np.int16] = np.frombuffer(sounds[entry.file_id], ">i2").astype(np.int16)
        name = entry.file_id.rpartition("/")[2]
        yield layout.Recording(split, name, entry.speaker, entry.transcript, samples)
        progress("writing", done, len(listed))


def _read(copy: Path, limits: archives.Limits, progress: layout.Progress) -> tuple[list[_Listed], dict[str, bytes]]:
    """The utterances sorted by file id, and every recording by file id as big-endian int16."""
    lists: dict[str, str] = {}
    sounds: dict[str, bytes] = {}
    budget = archives.Budget(copy, limits)
    for path, content in archives.members(copy, lambda path: _is_list(path) or _is_sound(path), budget):
        if _is_list(path):
            lists[path.name] = content.decode("ascii", errors="replace")
        else:
            file_id = "/".join(path.with_suffix("").parts[-3:])
            sounds.setdefault(file_id, _big_endian(path.suffix.lower(), content, f"{copy}: {path}", budget))
            progress("reading", len(sounds), 0)
    missing = sorted(_LISTS - lists.keys())
    if missing:
        raise InputError(f"{copy}: not a copy of AN4: etc/ lacks {', '.join(missing)}; {_how_to_get()}")
    listed = [entry for split in ("train", "test") for entry in _listed(lists, split, copy)]
    return sorted(listed, key=lambda entry: entry.file_id), sounds


def _is_list(path: PurePosixPath) -> bool:
    return path.parent.name == "etc" and path.name in _LISTS


def _is_sound(path: PurePosixPath) -> bool:
    return path.suffix.lower() in _SOUNDS and path.parts[-4:-3] == ("wav",) and not path.name.startswith(".")


def _listed(lists: Mapping[str, str], split: str, copy: Path) -> Iterator[_Listed]:
    """Pairs the file ids of a split with their transcripts, which carry sentence markers in some copies."""
    words: dict[str, str] = {}
    name = f"an4_{split}.transcription"
    for number, line in enumerate(lists[name].splitlines(), start=1):
        match = _TRANSCRIPTION.fullmatch(line)
        if not match:
            raise InputError(f"{copy}: etc/{name}:{number}: not 'WORDS (id)': {line[:80]!r}; {_how_to_get()}")
        words[match["id"]] = " ".join(match["words"].split())
    for number, line in enumerate(lists[f"an4_{split}.fileids"].splitlines(), start=1):
        match = _FILE_ID.fullmatch(line.strip())
        if not match or match["id"] not in words:
            problem = "has no transcript" if match else "is not SET/SPEAKER/ID"
            raise InputError(f"{copy}: etc/an4_{split}.fileids:{number}: {line[:80]!r} {problem}; {_how_to_get()}")
        yield _Listed(line.strip(), split, words[match["id"]])


def _big_endian(suffix: str, content: bytes, label: str, budget: archives.Budget) -> bytes:
    if suffix == ".raw":
        return content
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            budget.take(max(0, 2 * len(sound) * sound.channels - len(content)))  # more only if it is compressed
            samples, rate = sound.read(dtype="int16"), sound.samplerate
    except soundfile.LibsndfileError as error:
        raise InputError(f"{label}: broken recording ({error.error_string}); {_how_to_get()}") from error
    if rate != layout.SAMPLE_RATE or samples.ndim != 1:
        raise InputError(f"{label}: {rate} Hz, shape {samples.shape}: AN4 is 16000 Hz, one channel; {_how_to_get()}")
    return samples.astype(">i2").tobytes()


def _verify(copy: Path, listed: list[_Listed], sounds: Mapping[str, bytes], identity: Identity) -> None:
    """Compares a copy with the published corpus; missing recordings are reported before digests."""
    lacking = [entry.file_id for entry in listed if entry.file_id not in sounds]
    if lacking:
        raise InputError(
            f"{copy}: {len(lacking)} of {len(listed)} recordings are missing, first wav/{lacking[0]}; {_how_to_get()}"
        )
    counts = Counter(entry.split for entry in listed)
    recordings, transcripts = hashlib.sha256(), hashlib.sha256()
    for entry in listed:
        recordings.update(sounds[entry.file_id])
        transcripts.update(f"{entry.file_id} {entry.transcript}\n".encode())
    found = Identity(counts["train"], counts["test"], recordings.hexdigest(), transcripts.hexdigest())
    names = ("training utterances", "test utterances", "SHA-256 of all samples", "SHA-256 of all transcripts")
    wrong = [
        f"{name}: {is_} instead of {want}"
        for name, is_, want in zip(names, found, identity, strict=True)
        if is_ != want
    ]
    if wrong:
        raise InputError("\n  ".join([f"{copy}: not AN4 as it was published:", *wrong, _how_to_get()]))


def _download(mirrors: tuple[str, ...], folder: Path, limit: int, progress: layout.Progress) -> Path:
    """Fetches the archive from the first mirror that gives one."""
    target = folder / "an4.tar.gz"
    failures = []
    for url in mirrors:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, target.open("wb") as file:
                total = int(answer.headers.get("Content-Length") or 0)
                while (block := answer.read(1 << 18)) and file.tell() <= limit:
                    file.write(block)
                    progress("downloading", file.tell(), total)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failures.append(f"{url}: {error}")
            continue
        if limit >= target.stat().st_size >= total and tarfile.is_tarfile(target):
            return target
        failures.append(f"{url}: the answer is not an archive, or only the beginning of one")
    raise InputError("\n  ".join(["AN4 could not be downloaded:", *failures, _how_to_get()]))


def _how_to_get() -> str:
    return f"fetch {MIRRORS[0]} on a machine that can, and name the file with --archive=PATH"
