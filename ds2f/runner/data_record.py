"""The data of a run: which rows, transcripts and recordings it was begun with, so that it goes on with the same.

``data.json`` in the run's folder has a row for every utterance: path, digest of the transcript, size and time of the
recording, digest of a sample from its middle, and with ``--data.verify`` of all its bytes. A checkpoint has one digest
for each split, which covers order, paths, transcripts, sizes and samples.

Of a split of more than 20,000 utterances, the record has the utterances of a sample of the recordings, chosen by their
names, and a digest of all names, transcripts and durations in order. ``--data.verify`` looks at every recording.

Times of recordings count only on the machine that noted them: other machines may hold a copy. Where the digests of all
bytes are known, times do not count.
"""

import functools
import hashlib
import json
import os
import socket
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ds2f.config import Config
from ds2f.data import object_store, shards
from ds2f.data.columns import Table
from ds2f.data.manifest_paths import manifest_path
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError
from ds2f.files import json_text, write_atomically
from ds2f.runner import log_files
from ds2f.runner.splits import Split

FILE = "data.json"
_SAMPLE = 4096  # bytes from the middle of a recording
_SHOWN = 3  # utterances that a message names
_MOST = 20_000  # utterances of a split that are all in the record
_THREADS = 16


class _Row(NamedTuple):
    """An utterance as the run began with it."""

    audio: str  # relative to the manifest's folder, if it is below
    text: str  # digest of the transcript
    size: int  # of the recording, bytes
    time: int  # of its last change, nanoseconds
    sample: str  # digest of bytes from its middle
    content: str = ""  # digest of all its bytes; empty if unknown


class _File(NamedTuple):
    """A recording's file, with the fields of ``_Row``."""

    size: int
    time: int
    sample: str
    content: str


class _Whole(NamedTuple):
    """A large split, of which the rows are a sample; with ``data.verify`` all."""

    utterances: int
    digest: str  # of all utterances


class DataRecord(NamedTuple):
    """The data of a run, by split."""

    host: str  # where the times were noted
    splits: dict[str, list[_Row]]
    large: dict[str, _Whole] = {}  # noqa: RUF012  splits of which a sample is recorded

    def digests(self) -> dict[str, str]:
        """A digest of each split, without the times."""
        return {
            name: _digest(
                json_text([(row.audio, row.text, row.size, row.sample) for row in rows]).encode()
                + (self.large[name].digest.encode() if name in self.large else b"")
            )
            for name, rows in self.splits.items()
        }


def take(splits: Mapping[str, Split], cfg: Config) -> DataRecord:
    """Looks at all recordings of a run: size, time and a sample; with ``data.verify`` at all bytes.

    Args:
      splits: the splits that were read, by name.
      cfg: a resolved configuration.

    Raises:
      InputError: a recording cannot be read.
    """
    look = functools.cache(partial(_look, whole=cfg.data.verify))  # many utterances may be parts of one recording
    large = {name: len(split.utterances) > _MOST for name, split in splits.items()}
    with ThreadPoolExecutor(_THREADS) as pool:
        # Of few recordings, only samples are read: starting the threads would take longer.
        each = pool.map if any(large.values()) or cfg.data.verify else map

        def rows(name: str, split: Split) -> list[_Row]:
            folder = object_store.absolute(manifest_path(cfg, name).parent)
            sampled = large[name] and not cfg.data.verify
            chosen = map(split.utterances.__getitem__, _sample(split.utterances)) if sampled else split.utterances
            return list(each(lambda utterance: _row(utterance, folder, look(utterance.audio)), chosen))

        return DataRecord(
            socket.gethostname(),
            {name: rows(name, split) for name, split in splits.items()},
            {name: _whole(split.utterances) for name, split in splits.items() if large[name]},
        )


def _sample(utterances: Table[Utterance]) -> list[int]:
    """Places of about 10,000 to 20,000 utterances: of the recordings in whose names a checksum ends in zeros.

    Names are a recording's and its folder's. So the sample stays when rows come or go, and when the data are moved.
    """
    zeros = (1 << (max(1, len(utterances) // _MOST)).bit_length()) - 1
    names, folders = utterances.column("audio").names, utterances.column("audio").folders
    above = [zlib.crc32(Path(folder).name.encode(errors="surrogatepass")) for folder in folders]
    places = utterances.arrays["audio.folder"].tolist()
    found = [row for row, name in enumerate(names.encoded()) if not zlib.crc32(name, above[places[row]]) & zeros]
    return found or [0]


def _whole(utterances: Table[Utterance]) -> _Whole:
    digest = hashlib.sha256()
    for values in (
        *(utterances.arrays["audio.bytes"], utterances.lengths("audio"), utterances.numbers("start")),
        *(utterances.arrays["transcript.bytes"], utterances.lengths("transcript"), utterances.numbers("duration")),
    ):
        digest.update(np.ascontiguousarray(values).data)
    return _Whole(len(utterances), digest.hexdigest()[:16])


def require_unchanged(run_dir: Path, now: DataRecord, cfg: Config) -> list[str]:
    """Compares the data with the data that the run in a folder was begun with. A damaged ``data.json`` is set aside.

    Args:
      run_dir: the folder of a run that goes on.
      now: the data of this start.
      cfg: ``data.allow_changes`` and ``data.verify`` are read.

    Returns:
      Messages for the log.

    Raises:
      InputError: rows, transcripts or recordings are others than before, and ``data.allow_changes`` is not set.
    """
    messages: list[str] = []
    before = _load(run_dir / FILE, messages)
    if before is None:
        return messages
    changes = [change for name in now.splits if name in before.splits for change in _changes(name, before, now)]
    if changes and not cfg.data.allow_changes:
        raise InputError(refusal(str(run_dir), changes))
    if changes:
        messages.append("\n  ".join(["the run goes on with other data than before:", *changes]))
    unknown = sum(not row.content for rows in before.splits.values() for row in rows)
    if cfg.data.verify and unknown:
        messages.append(
            f"--data.verify: the content of {unknown} recordings is unknown from before, since the run had not been "
            "started with the flag; size and sample were compared"
        )
    return messages


def refusal(run_dir: str, changes: Iterable[str]) -> str:
    """The message about a run that would go on with other data."""
    lines = [f"{run_dir} was begun with other data:", *changes]
    return (
        "\n  ".join(lines)
        + "\n  Restore the data, begin another run with --run_dir=OTHER, or go on with the new data: "
        "--data.allow_changes."
    )


def write(run_dir: Path, now: DataRecord) -> list[str]:
    """Writes ``data.json``. Known digests of the content of recordings that did not change are kept.

    Returns:
      Messages for the log: the file cannot be written.
    """
    before = _load(run_dir / FILE, [])
    splits = dict(before.splits) if before is not None else {}
    for name, rows in now.splits.items():
        known = {row._replace(time=0, content=""): row.content for row in splits.get(name, [])}
        splits[name] = [
            row._replace(content=row.content or known.get(row._replace(time=0, content=""), "")) for row in rows
        ]
    try:
        if before is None or (splits, now.large) != (before.splits, before.large):
            wholes = {**(before.large if before is not None else {}), **now.large}
            write_atomically(run_dir / FILE, text(DataRecord(now.host, splits, wholes)), fsync=True)
    except OSError as error:
        return [f"{run_dir / FILE} cannot be written: {error.strerror or error}. Training goes on."]
    return []


def text(record: DataRecord) -> str:
    """The content of ``data.json``."""
    content = json_text(record._asdict())
    return f'{{"content": {content},\n"sha256": "{_digest(content.encode())}"}}\n'


def _row(utterance: Utterance, folder: Path, file: _File) -> _Row:
    path = object_store.absolute(utterance.audio)
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    name += utterance.name.removeprefix(str(utterance.audio))  # the part
    said = _digest(utterance.transcript.encode(errors="surrogateescape"))
    return _Row(name, said, *file)


def _look(audio: Path, *, whole: bool) -> _File:
    try:
        if member := shards.member(audio):
            found = shards.read(member, shards.MOST_BYTES).getvalue()
            time = 0 if object_store.is_remote(audio) else member.shard.stat().st_mtime_ns
            middle = max(0, (len(found) - _SAMPLE) // 2)
            every = hashlib.sha256(found).hexdigest()[:32] if whole else ""
            return _File(len(found), time, _digest(found[middle : middle + _SAMPLE]), every)
        with audio.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            sample = os.pread(file.fileno(), _SAMPLE, max(0, (status.st_size - _SAMPLE) // 2))
            content = hashlib.file_digest(file, "sha256").hexdigest()[:32] if whole else ""
    except OSError as error:
        raise InputError(f"{audio}: {error.strerror or error}; restore the recording or remove its row") from error
    return _File(status.st_size, status.st_mtime_ns, _digest(sample), content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _load(path: Path, messages: list[str]) -> DataRecord | None:
    """The stored record; None without one, and if it is damaged, which is then kept under another name."""
    try:
        stored: Any = json.loads(path.read_bytes())
        content = stored["content"]
        if _digest(json_text(content).encode()) != stored["sha256"]:
            raise ValueError
        return DataRecord(
            content["host"],
            {name: [_Row(*row) for row in rows] for name, rows in content["splits"].items()},
            {name: _Whole(*whole) for name, whole in content.get("large", {}).items()},
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        messages.append(f"{path} cannot be read: {error.strerror or error}")
    except (ValueError, TypeError, KeyError, RecursionError):
        log_files.set_aside(path, "is damaged, so that changed data cannot be named", messages.append)
    return None


def _keyed(rows: list[_Row]) -> dict[tuple[str, int], _Row]:
    """Rows by path, and by number where several have one path."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        found[row.audio, seen[row.audio]] = row
        seen[row.audio] += 1
    return found


def _changes(split: str, before: DataRecord, now: DataRecord) -> list[str]:
    """What is different in a split, a line for each kind of change."""
    old, new = _keyed(before.splits[split]), _keyed(now.splits[split])
    whole, whole_now = before.large.get(split), now.large.get(split)
    if whole and whole_now and (len(old) == whole.utterances) != (len(new) == whole_now.utterances):  # data.verify
        sample = old.keys() & new.keys()
        old, new = ({key: row for key, row in rows.items() if key in sample} for rows in (old, new))
    common = [key for key in new if key in old]
    kinds = {
        "rows added": [key for key in new if key not in old],
        "rows removed": [key for key in old if key not in new],
        "rows in another order": [
            key for key, was in zip(common, (key for key in old if key in new), strict=True) if key != was
        ],
        "transcripts altered": [key for key in common if old[key].text != new[key].text],
        "recordings replaced": [key for key in common if _replaced(old[key], new[key])],
        "recordings written again, with the same size and another time (a copy of the data changes times, too)": [
            key for key in common if before.host == now.host and _touched(old[key], new[key])
        ],
    }
    found = [f"{split}: {len(keys)} {kind}: {_named(keys)}" for kind, keys in kinds.items() if keys]
    if whole and whole_now and whole.digest != whole_now.digest and not found:
        return [f"{split}: rows or transcripts altered, none of them in the sample that {FILE} names"]
    return found


def _named(keys: list[tuple[str, int]]) -> str:
    return ", ".join([path for path, _ in keys[:_SHOWN]] + ["..."] * (len(keys) > _SHOWN))


def _replaced(old: _Row, new: _Row) -> bool:
    if old.content and new.content:
        return old.content != new.content
    return (old.size, old.sample) != (new.size, new.sample)


def _touched(old: _Row, new: _Row) -> bool:
    known = bool(old.content and new.content)
    return not known and not _replaced(old, new) and old.time != new.time
