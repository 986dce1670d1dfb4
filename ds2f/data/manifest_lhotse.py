"""Lhotse's cuts as rows of manifests: JSON lines, ``cuts.jsonl`` and ``cuts.jsonl.gz``.

Read are cuts of one recording with one text. The recording is a file; commands, addresses and archives in its place are
never executed, fetched or opened. Fields that change neither the sound nor the text are ignored: features, alignments,
values in ``custom``.

Source: the serialised form of ``MonoCut`` and ``MultiCut``, github.com/lhotse-speech/lhotse, lhotse/cut/.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ds2f.data.manifest_rows import Row, exists, path_below, seconds_of, word_of
from ds2f.errors import InputError

_KINDS = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")
_CHANGES = ("transforms", "tracks")  # what makes a cut sound otherwise than its span of the recording


def is_cut(sample: Any) -> bool:
    """Whether an object of a manifest is a cut."""
    return isinstance(sample, Mapping) and (sample.get("type") in _KINDS or {"recording", "supervisions"} <= {*sample})


def refuse_halves(sample: Any, path: Path) -> None:
    """Refuses Lhotse's manifests of recordings alone, and of supervisions alone, by one of their objects.

    Raises:
      InputError: the object is of such a manifest.
    """
    if isinstance(sample, Mapping) and ({"sources", "num_samples"} <= {*sample} or "recording_id" in sample):
        raise InputError(
            f"{path}: Lhotse's recordings or supervisions alone; join them to cuts: lhotse cut simple -r "
            "recordings.jsonl.gz -s supervisions.jsonl.gz cuts.jsonl.gz, then trim-to-supervisions"
        )


def row_of_cut(cut: Mapping[str, Any], folder: Path, where: str) -> Row:
    """The row of a cut. Relative paths count from ``folder`` or, as Lhotse has it, from the current folder.

    Raises:
      InputError: the cut is not one span of one file with one text; the message says why.
    """
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut") or any(cut.get(name) for name in _CHANGES):
        raise InputError(f"{where}: a cut of the type {str(kind)[:40]!r}, which mixes or changes recordings; save it")
    recording, supervisions = cut.get("recording"), cut.get("supervisions")
    if not isinstance(recording, Mapping):
        raise InputError(f"{where}: a cut without its recording, as of features alone; add the recording")
    if not isinstance(supervisions, list) or len(supervisions) != 1 or not isinstance(supervisions[0], Mapping):
        number = len(supervisions) if isinstance(supervisions, list) else 0
        raise InputError(
            f"{where}: a cut with {number} supervisions; needed is one, with the text (CutSet.trim_to_supervisions)"
        )
    spoken = supervisions[0]
    if not isinstance(spoken.get("text"), str):
        raise InputError(f"{where}: a cut without a text in its supervision; add it or remove the row")
    name = _file(recording, cut.get("channel"), where)
    path = path_below(folder, name, where)
    if not exists(path) and exists(Path(name)):
        path = Path(name).absolute()
    start, duration = (seconds_of(cut, (field,), where) for field in ("start", "duration"))
    speaker, lang = word_of(spoken, ("speaker",)), word_of(spoken, ("language",))
    return Row(where, path, spoken["text"], start or 0.0, duration, speaker, lang)


def _file(recording: Mapping[str, Any], channel: Any, where: str) -> str:
    """The name of the recording's only file, whose channels are all in the cut.

    Raises:
      InputError: there are several files, or none, or the cut takes some of the channels.
    """
    sources = recording.get("sources")
    if recording.get("transforms"):
        raise InputError(f"{where}: a recording with transforms, which change its sound; save it (Cut.save_audio)")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], Mapping):
        number = len(sources) if isinstance(sources, list) else 0
        raise InputError(f"{where}: a recording of {number} files; needed is one, with all channels")
    kind, name, channels = (sources[0].get(field) for field in ("type", "source", "channels"))
    if kind != "file" or not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: a recording that is a {str(kind)[:40]!r}, not a file; save it (Cut.save_audio)")
    taken = channel if isinstance(channel, list) else [channel]
    if isinstance(channels, list) and len(channels) > 1 and not all(each in taken for each in channels):
        raise InputError(
            f"{where}: a cut of {len(taken)} of {len(channels)} channels, and channels are mixed into one; save the "
            "channel to a file of its own (Cut.save_audio)"
        )
    return name
