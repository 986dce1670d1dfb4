"""The index of a split: its utterances and their labels in one file, so that a large manifest is read once.

A manifest of a megabyte or more that holds its transcripts gets a file in ``<data_path>/cache/manifests``. The name has
the digest of the manifest's bytes and of all settings that decide about utterances and labels. What is checked when:

- The first start opens every recording, as without an index. Members of shards are the exception: see ``shards``.
- Every further start compares the digest of the manifest and the checksum of the index, and opens 256 recordings at
  equal distances, whose lengths must be as before. Otherwise everything is read again.
- ``data.verify`` reads everything again at each start.

Rows that were left out (``data.max_unusable``) stay left out until the manifest changes. Small manifests, folders, and
manifests that name the transcripts' files are read at every start.
"""

import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import attrs

import ds2f
from ds2f.config import Config, DataConfig
from ds2f.data import array_file, audio, manifests, object_store, shards
from ds2f.data.columns import Table
from ds2f.data.examples import EncodedSplit, Example, encode_all
from ds2f.data.manifests import Utterance
from ds2f.data.problems import Problem, Remark
from ds2f.errors import InputError
from ds2f.files import open_regular

_FORMAT = 1  # increase it when utterances or labels of the same manifest and settings change
_SMALLEST = 1 << 20  # bytes of a manifest that gets an index
_CHECKED = 256  # recordings that are opened at a further start
_THREADS = 16
_KEPT = 4  # indexes of a manifest, for other settings
_TOLERANCE = 0.5  # seconds, for parts: as in ``manifests``
_log = logging.getLogger(__name__)

# Settings of the section ``data`` that decide neither about utterances nor about labels. A new setting counts until it
# is named here.
_WITHOUT_EFFECT = {
    *("dataset", "train_manifest", "val_manifest", "test_manifest", "train_on_val", "labels_path"),  # read already
    *("batch_size", "global_batch_size", "max_frames", "padded_shapes", "sort_first_epoch", "bucket_jitter"),
    *("num_workers", "loader_timeout", "max_manifest_bytes", "cache_features", "verify", "allow_changes"),
    *("max_unusable", "max_unreadable"),
}


class OpenSplit(NamedTuple):
    """A split that was read."""

    utterances: Table[Utterance]  # the usable rows of the manifests
    problems: list[Problem]  # of the other rows
    encoded: EncodedSplit  # from the utterances


def open_split(sources: Sequence[Path], cfg: Config, *, train: bool) -> OpenSplit:
    """Opens a split from its index, or reads its manifests and writes the index.

    Args:
      sources: the manifests, one behind the other.
      cfg: a resolved configuration.
      train: whether to leave out by duration.

    Raises:
      InputError: as ``manifests.read``.
    """
    file = _file_of(sources, cfg, train=train)
    if file is None:
        return _read(sources, cfg, train=train)[0]
    if found := _load(file, cfg.data):
        return found
    with _one_at_a_time(file.parent):
        if found := _load(file, cfg.data):  # another process has been faster
            return found
        found, messages, whole = _read(sources, cfg, train=train)
        if not whole or len(found.problems) > cfg.data.max_unusable:
            return found
        return _store(file, found, messages) or found


def _file_of(sources: Sequence[Path], cfg: Config, *, train: bool) -> Path | None:
    """The file of the index; None: the manifests are read at every start."""
    try:
        if any(
            path.suffix == shards.SUFFIX or not (object_store.is_remote(path) or path.is_file()) for path in sources
        ):
            return None
        local = [path.stat().st_size for path in sources if not object_store.is_remote(path)]
        if len(local) == len(sources) and sum(local) < _SMALLEST:
            return None
        digests = [_version(path) for path in sources]
    except (OSError, InputError):
        return None  # reading the manifest tells what is wrong
    paths = [str(object_store.absolute(path)) for path in sources]
    settings = {
        "format": [_FORMAT, ds2f.__version__],
        "manifests": list(zip(paths, digests, strict=True)),
        "train": train,
        "data": {name: value for name, value in attrs.asdict(cfg.data).items() if name not in _WITHOUT_EFFECT},
        "spect": attrs.asdict(attrs.evolve(cfg.spect, mean=(), deviation=0.0)),
        "labels": cfg.model.labels,
        "time_stride": cfg.model.time_stride,
    }
    return Path(cfg.data_path) / "cache" / "manifests" / f"{_digest([paths, train])}-{_digest(settings)}.index"


def _version(path: Path) -> str:
    """What changes with a manifest: the digest of its bytes, or what a bucket tells."""
    if object_store.is_remote(path):
        return object_store.version(path)
    with open_regular(path) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _read(sources: Sequence[Path], cfg: Config, *, train: bool) -> tuple[OpenSplit, list[str], bool]:
    """Reads a split; also returns the messages for the log, and whether the manifests hold the transcripts."""
    found: list[Problem] = []
    messages: list[str] = []
    whole = True

    def utterances() -> Iterator[Utterance]:
        nonlocal whole
        first = 0
        for path in sources:
            listing = manifests.require_rows(path, cfg.data)
            whole &= all(isinstance(row.transcript, str) for row in listing.rows)
            read = manifests.open_rows(path, listing, cfg=cfg.data, found=found, warn=messages.append)
            yield from (each._replace(id=each.id + first) for each in read)
            first += len(read)

    table = Table.of(Utterance, utterances())
    for message in messages:
        _log.warning("%s", message)
    return OpenSplit(table, found, encode_all(table, cfg, train=train)), messages, whole


def _store(file: Path, found: OpenSplit, messages: list[str]) -> OpenSplit | None:
    """Writes an index and opens it; None if it cannot be written, which is logged."""
    tables = {"utterances.": found.utterances.arrays, "examples.": found.encoded.examples.arrays}
    about = {
        "messages": messages,
        "problems": found.problems,
        "remarks": found.encoded.remarks,
        "faults": found.encoded.problems,
    }
    try:
        arrays = {prefix + name: values for prefix, each in tables.items() for name, values in each.items()}
        array_file.write(file, arrays, about)
        others = sorted(file.parent.glob(f"{file.name.partition('-')[0]}-*"), key=lambda path: path.stat().st_mtime)
        for path in others[:-_KEPT]:
            path.unlink(missing_ok=True)
        return _opened(array_file.load(file, verify=False))
    except OSError as error:
        _log.warning("%s cannot be written: %s. The manifest is read at every start.", file, error.strerror or error)
        return None


def _load(file: Path, cfg: DataConfig) -> OpenSplit | None:
    """Opens an index; None if there is none, or if it is damaged or no longer true, which is logged."""
    if cfg.verify:
        return None
    try:
        stored = array_file.load(file)
        found = _opened(stored)
        changed = _first_changed(found.utterances)
    except FileNotFoundError:
        return None
    except (array_file.DamagedFile, OSError, KeyError, TypeError, ValueError) as error:
        _log.warning("%s; the manifest is read again", error)
        return None
    if len(found.problems) > cfg.max_unusable:  # the files may be there by now
        return None
    if changed:
        _log.warning("%s has changed since the index of its manifest was written; the manifest is read again", changed)
        return None
    for message in stored.about["messages"]:
        _log.warning("%s", message)
    return found


def _opened(stored: array_file.ArrayFile) -> OpenSplit:
    utterances = Table(Utterance, stored.group("utterances."))
    examples = Table(Example, stored.group("examples."))
    remarks = tuple(Remark(what, number, tuple(names)) for what, number, names in stored.about["remarks"])
    problems, faults = ([Problem(*each) for each in stored.about[name]] for name in ("problems", "faults"))
    return OpenSplit(utterances, problems, EncodedSplit(examples, remarks, tuple(faults), len(utterances)))


def _first_changed(utterances: Table[Utterance]) -> Path | None:
    """The first recording of a sample that is missing or has another length than the index says."""
    count = min(_CHECKED, len(utterances))
    sample = [utterances[place * len(utterances) // count] for place in range(count)]
    with ThreadPoolExecutor(_THREADS) as pool:
        same = list(pool.map(_is_unchanged, sample))
    return next((each.audio for each, good in zip(sample, same, strict=True) if not good), None)


def _is_unchanged(utterance: Utterance) -> bool:
    try:
        seconds = audio.info(utterance.audio).duration
    except InputError:
        return False
    if utterance.start is None:
        return abs(seconds - utterance.duration) < 1e-6
    return utterance.start + utterance.duration <= seconds + _TOLERANCE


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one process of those that share a folder write an index, where the file system has locks."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        file = (folder / ".lock").open("w")
    except OSError:  # the index cannot be written either, which is told then
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()
