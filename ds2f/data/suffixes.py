"""Suffixes of files: recordings that soundfile reads, recordings that need a conversion, transcripts."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import soundfile

# Headerless samples, and matrices of Octave and MATLAB, are no recordings of a corpus.
_NO_RECORDINGS = {".raw", ".mat4", ".mat5"}
_OTHER_NAMES = {".aif", ".aifc", ".iff", ".mpc", ".oga", ".opus", ".sf", ".snd", ".sph", ".wave"}
READABLE = frozenset({f".{name.lower()}" for name in soundfile.available_formats()} - _NO_RECORDINGS | _OTHER_NAMES)
CONVERTIBLE = frozenset(
    f".{name}"
    for name in ("3gp", "aac", "ac3", "amr", "ape", "avi", "dsf", "m4a", "m4b", "mka", "mkv", "mov", "mp2", "mp4")
    + ("shn", "spx", "tta", "webm", "wma", "wv")
)
TRANSCRIPTS = frozenset({".txt", ".lab"})


def is_recording(path: Path) -> bool:
    """Whether a file counts as a recording in a folder: soundfile reads its format, by the suffix.

    >>> is_recording(Path("a/B.WAV")), is_recording(Path("a.opus")), is_recording(Path("a.m4a"))
    (True, True, False)
    """
    return path.suffix.lower() in READABLE


def convertible(files: Iterable[Path]) -> str:
    """A remark on the recordings among files that soundfile does not read, counted by suffix; empty without any.

    >>> convertible([Path("a.m4a"), Path("b.M4A"), Path("c.wma"), Path("d.wav"), Path("e.jpg")])
    '2 .m4a, 1 .wma: convert them (ffmpeg -i NAME.m4a NAME.wav)'
    """
    counts = Counter(suffix for file in files if (suffix := file.suffix.lower()) in CONVERTIBLE)
    named = [f"{number} {suffix}" for suffix, number in counts.most_common()]
    first = next(iter(dict(counts.most_common())), "")
    return f"{', '.join(named)}: convert them (ffmpeg -i NAME{first} NAME.wav)" if named else ""
