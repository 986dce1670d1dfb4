"""Writes tar shards: recordings as they are, with a manifest that addresses them."""

import io
import tarfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ds2f.data.manifests import Utterance
from ds2f.data.shards import Member, open_recording
from ds2f.errors import InputError
from ds2f.files import flush, json_text, naming, write_atomically


class Written(NamedTuple):
    """What was written."""

    manifest: Path
    shards: int
    bytes: int


def write(
    utterances: Sequence[Utterance],
    folder: Path,
    *,
    name: str = "train",
    most_bytes: int = 1 << 30,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Written:
    """Writes recordings and their texts to ``folder/NAME-000000.tar`` and on, and ``folder/NAME.jsonl`` at last.

    The recordings keep their bytes and their order, so that training has the same batches, bit by bit.

    Args:
      utterances: of whole recordings.
      folder: the folder to write to.
      name: of the shards and of the manifest.
      most_bytes: of a shard, but for its last recording.
      progress: called with the number of recordings that are written, and of all.

    Raises:
      InputError: a manifest is there already, an utterance is a part of a recording, or a recording cannot be read.
      OSError: the file system refused.
    """
    manifest = folder / f"{name}.jsonl"
    if manifest.exists():
        raise InputError(f"{manifest} is there already: remove it with its shards, or name another folder")
    if parts := sum(each.start is not None for each in utterances):
        raise InputError(
            f"{parts:,} of {len(utterances):,} utterances are parts of recordings, and a shard holds whole ones; cut "
            "them out first: python -m launch.prepare --dataset=table --source=MANIFEST --convert=flac (or "
            "--dataset=folder)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    shards = total = 0
    while len(lines) < len(utterances):
        path = folder / f"{name}-{shards:06}.tar"
        lines += _write_shard(path, utterances, len(lines), most_bytes)
        shards, total = shards + 1, total + path.stat().st_size
        progress(len(lines), len(utterances))
    write_atomically(manifest, "".join(lines).encode(), fsync=True)
    return Written(manifest, shards, total)


def _write_shard(path: Path, utterances: Sequence[Utterance], first: int, most_bytes: int) -> list[str]:
    """Writes one shard, of the utterances from ``first`` on; returns the lines of the manifest."""
    lines: list[str] = []
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with (
            naming(path),
            temporary.open("wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for row in range(first, len(utterances)):
                if tar.offset >= most_bytes:
                    break
                lines.append(_add(tar, path, row, utterances[row]))
        flush(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return lines


def _add(tar: tarfile.TarFile, path: Path, row: int, utterance: Utterance) -> str:
    """Adds a recording and its text; returns the line of the manifest."""
    try:
        with open_recording(utterance.audio) as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{utterance.audio}: {error.strerror}; restore the recording or remove its row") from error
    fields = {"duration": utterance.duration, "text": utterance.transcript}
    fields |= {name: value for name in ("speaker", "lang") if (value := getattr(utterance, name))}
    key, suffix = f"{row:09}", utterance.audio.suffix.lower()
    sound = Member(path, tar.offset + tarfile.BLOCKSIZE, len(content), f"{key}{suffix}")
    for name, data in ((f"{key}{suffix}", content), (f"{key}.json", json_text(fields, ascii_only=False).encode())):
        header = tarfile.TarInfo(name)
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))
    address = sound.path.relative_to(path.parent).as_posix()
    return json_text({"audio_filepath": address} | fields, ascii_only=False) + "\n"
