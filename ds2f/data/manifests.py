"""Manifests: the recordings of a split, and their transcripts. Read in every form that people have, written as CSV."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ds2f.config import Config, DataConfig
from ds2f.data import audio, object_store, problems, shards
from ds2f.data.manifest_listing import MissingManifestError, distinct, listing
from ds2f.data.manifest_paths import manifest_path
from ds2f.data.manifest_rows import Listing, Row, exists
from ds2f.data.manifest_tables import table_text
from ds2f.data.problems import Checked, Problem
from ds2f.errors import InputError
from ds2f.files import read_bounded, write_atomically

_SLACK = 0.5  # seconds by which a manifest's duration may differ from the recording's: programs round it

_DEFAULTS = DataConfig()
_QUICK = 16 << 20  # bytes of a manifest that takes a second to read
_AT_ONCE = 4096  # rows whose files threads open
_THREADS = 16
_log = logging.getLogger(__name__)


def _warn(message: str) -> None:
    _log.warning("%s", message)


class Utterance(NamedTuple):
    """One recording and its transcript."""

    id: int  # its place in the list that ``read`` returned
    audio: Path
    transcript: str  # as written, runs of white space made one space
    duration: float  # seconds
    start: float | None = None  # of a part of the recording, seconds; None: the whole recording
    speaker: str = ""  # empty: unknown
    lang: str = ""  # language; empty: unknown

    @property
    def name(self) -> str:
        """The recording's path, of a part with a fragment of the W3C's Media Fragments: ``talk.flac#t=1.5,3``."""
        if self.start is None:
            return str(self.audio)
        start, end = (f"{time:.3f}".rstrip("0").rstrip(".") for time in (self.start, self.start + self.duration))
        return f"{self.audio}#t={start},{end}"


def read(path: str | Path, *, cfg: DataConfig = _DEFAULTS, found: list[Problem] | None = None) -> list[Utterance]:
    """Reads a manifest and checks every file that it names.

    Understood are: CSV and TSV, with a header row or with two columns, the recording and its transcript or the
    transcript's file; JSON of deepspeech.pytorch V3; JSON lines with NeMo's fields, and Lhotse's cuts; folders with
    ``wav/`` and ``txt/``, with recordings and ``.txt`` files side by side, or with Kaldi's ``wav.scp`` and ``text``;
    files that gzip has packed. Relative paths count from the manifest's own folder (JSON: from ``root_path``). Rows may
    name parts of recordings, by offset and duration or in Kaldi's ``segments``. A byte-order mark, UTF-16 with one, and
    Windows line ends are accepted. Repeated rows are dropped. The numbers of dropped rows and of empty transcripts are
    logged.

    Args:
      path: the manifest file, or the folder.
      cfg: the limits are read.
      found: takes the problems of single rows, which are left out; None: up to ``cfg.max_unusable`` rows are left out
        with a warning.

    Returns:
      The utterances in the order of the manifest, with durations from the recordings' headers.

    Raises:
      InputError: the manifest is missing, empty, too large or malformed, or without ``found`` more rows than
        ``cfg.max_unusable`` are malformed or name files that are missing, too large or unusable; the message lists them
        by kind.
    """
    return open_rows(Path(path), require_rows(Path(path), cfg), cfg=cfg, found=found)


def open_rows(
    path: Path,
    listing: Listing,
    *,
    cfg: DataConfig = _DEFAULTS,
    found: list[Problem] | None = None,
    warn: Callable[[str], None] = _warn,
) -> list[Utterance]:
    """Opens the recordings and transcripts of a manifest's rows: ``read`` after ``require_rows``; ``warn`` logs."""
    read_rows, malformed, remarks = listing
    faults = list(malformed)
    utterances: list[Utterance] = []
    rows, repeated = distinct(read_rows)
    if repeated:
        warn(f"{path}: {repeated} repeated row(s) dropped")
    for row, opened_row in zip(rows, _opened_rows(rows, cfg), strict=True):
        if isinstance(opened_row, InputError):
            faults.append(Problem.of(row.where, opened_row))
        else:
            utterances.append(opened_row._replace(id=len(utterances)))
    if found is not None:
        found += faults
    else:
        checked = Checked("", str(path), len(rows) + len(malformed), faults)
        for left_out in problems.require_few([checked], limit=cfg.max_unusable).values():
            warn(f"{path}: {left_out}")
        if not utterances:
            raise InputError(f"{path}: the manifest leaves no recordings")
    for remark in remarks:
        warn(remark)
    if silent := sum(not utterance.transcript for utterance in utterances):
        warn(f"{path}: {'all ' * (silent == len(utterances))}{silent} transcript(s) are empty")
    return utterances


def _opened_rows(rows: Sequence[Row], cfg: DataConfig) -> Iterator[Utterance | InputError]:
    """The utterance of each row, or its fault. Threads open the files of many rows: file systems may be slow."""
    lengths: dict[Path, float | InputError] = {}

    def utterance(row: Row) -> Utterance | InputError:
        try:
            return opened(row, 0, lengths, cfg=cfg)
        except InputError as error:
            return error

    if len(rows) < _AT_ONCE:
        yield from map(utterance, rows)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(rows), _AT_ONCE):
            yield from pool.map(utterance, rows[first : first + _AT_ONCE])


def opened(
    row: Row, id: int, lengths: dict[Path, float | InputError], *, cfg: DataConfig = _DEFAULTS, believe: bool = True
) -> Utterance:
    """The utterance of a row, with its transcript and with the duration that the recording's header tells.

    Args:
      row: of a manifest.
      id: the utterance's place in its list.
      lengths: of the recordings that were opened before, seconds, or why they cannot be read: many rows may name parts
        of one recording. Also the sizes of tar shards, bytes.
      cfg: the limits are read.
      believe: whether the length that a row gives a recording in a tar shard is believed, and the recording not opened.

    Raises:
      InputError: the recording or the transcript cannot be read, or the recording ends before the part.
    """
    transcript = transcript_of(row, cfg.max_text_bytes)
    start, duration = _extent(row, lengths, believe=believe)
    return Utterance(id, row.audio, transcript, duration, start, row.speaker, row.lang)


def require(cfg: Config, splits: Iterable[str]) -> None:
    """Reads the rows of manifests, but none of the files that they name: a quick check before slow work.

    Of a manifest of more than 16 MiB, only the existence is checked.

    Args:
      cfg: the run.
      splits: ``train``, ``val``, ``test``.

    Raises:
      InputError: a manifest is missing, empty, too large or malformed; the message lists the faults of all.
    """
    checked, broken = [], []
    missing: list[Path] = []
    for split in splits:
        try:
            path = manifest_path(cfg, split)
            if exists(path) and _QUICK < path.stat().st_size <= cfg.data.max_manifest_bytes:
                continue  # an index may make reading it unnecessary
            rows, malformed, _ = require_rows(path, cfg.data)
            checked.append(Checked(split, str(path), len(rows) + len(malformed), malformed))
        except MissingManifestError as error:
            missing += error.paths
        except InputError as error:
            broken.append(str(error))
    if missing:
        broken.insert(0, str(MissingManifestError(*missing)))
    problems.require_few(checked, limit=cfg.data.max_unusable, broken=broken)


def require_rows(path: Path, cfg: DataConfig) -> Listing:
    """The rows of a manifest, at least one."""
    found = listing(path, cfg.max_manifest_bytes)
    if not found.rows and not found.problems:
        reasons = "".join(f" {remark}" for remark in found.remarks)
        raise InputError(
            f"{path}: the manifest names no recordings; write it again with python -m launch.prepare.{reasons}"
        )
    return found


def write(path: str | Path, rows: Iterable[tuple[Path, Path]]) -> None:
    """Writes a CSV manifest of (audio, transcript) paths: all of it or, when interrupted, none of it."""
    path = Path(path)
    content = text(rows, folder=path.parent).encode(errors="surrogateescape")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, fsync=True)


def text(rows: Iterable[tuple[Path, Path]], *, folder: Path) -> str:
    """The text of a CSV manifest that lies in ``folder``.

    Paths below the folder are relative, so that it can be moved with its recordings; other paths are absolute.
    """
    return table_text((shown_from(folder, sound), shown_from(folder, words)) for sound, words in rows)


def shown_from(folder: Path, file: Path) -> str:
    """The path of a file as a manifest in ``folder`` names it."""
    folder, file = object_store.absolute(folder), object_store.absolute(file)
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def transcript_of(row: Row, limit: int) -> str:
    """The text of a row, or of the file that it names, of at most ``limit`` bytes; single spaces.

    Raises:
      InputError: the file is missing or too large, or the text is not UTF-8.
    """
    if isinstance(row.transcript, str):
        if not _is_unicode(row.transcript):
            raise InputError("the text is not UTF-8; save the manifest as UTF-8")
        return " ".join(row.transcript.split())
    try:
        content = read_bounded(row.transcript, limit, remedy="Raise it with --data.max_text_bytes.")
        return " ".join(content.decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"{row.transcript}: byte {error.start} is not UTF-8; save the transcript as UTF-8") from error
    except OSError as error:
        raise InputError(f"{row.transcript}: {error.strerror}; add the transcript or remove the row") from error


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _extent(row: Row, lengths: dict[Path, float | InputError], *, believe: bool) -> tuple[float | None, float]:
    """The beginning of a row's part (None: the whole recording) and its length, seconds; arguments as of ``opened``.

    A recording in a tar shard has the length that its row says, if it says one: opening each would read the shard.

    Raises:
      InputError: the recording cannot be read, or ends before the part.
    """
    if believe and row.seconds and not row.start and (member := shards.member(row.audio)):
        _require_inside(member, lengths)
        return None, row.seconds
    if row.audio not in lengths:
        lengths[row.audio] = _length(row.audio)
    seconds = lengths[row.audio]
    if isinstance(seconds, InputError):
        raise seconds
    end = seconds if row.seconds is None else row.start + row.seconds
    if end > seconds + _SLACK or row.start >= seconds:
        raise InputError(
            f"{row.audio}: {seconds:.1f} s long, the row says {_seconds(max(end, row.start))}; copy the recording "
            "again or correct the row"
        )
    if not row.start and end >= seconds - _SLACK:
        return None, seconds
    if end <= row.start:
        raise InputError(f"{row.audio}: the row names an empty part, at {row.start:g} s; correct or remove the row")
    return row.start, min(end, seconds) - row.start


def _seconds(number: float) -> str:
    """Seconds in a message; an absurd number in few characters."""
    return f"{number:.1f} s" if number < 1e9 else f"{number:.1g} s"


def _require_inside(member: shards.Member, lengths: dict[Path, float | InputError]) -> None:
    """Requires that a shard is there and reaches to the end of a member; in a bucket, both are believed.

    Raises:
      InputError: the shard is missing or cut short.
    """
    if object_store.is_remote(member.shard):
        return
    if member.shard not in lengths:
        lengths[member.shard] = shards.size(member.shard)
    size = lengths[member.shard]
    if isinstance(size, InputError):
        raise size
    if member.offset + member.size > size:
        raise InputError(f"{member.path}: the shard is cut short; copy it again")


def _length(recording: Path) -> float | InputError:
    """The length of a recording, seconds, or why it cannot be read."""
    if not _is_unicode(str(recording)) and not recording.exists():
        return InputError(f"{recording}: no such file, and the name is not UTF-8; save the manifest as UTF-8")
    try:
        return audio.info(recording).duration
    except InputError as error:
        return error
