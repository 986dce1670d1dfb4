"""The layouts of published corpora, each as a function that yields the utterances in a folder.

Nothing is opened but tables and transcripts. A name in a table that leads out of the corpus's folder is no recording.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ds2f.config import DataConfig
from ds2f.errors import InputError
from ds2f.files import read_bounded

_DEPTHS = ("", "*/", "*/*/")  # levels below a folder that are searched for a corpus
_SHOWN = 80  # characters of a malformed row


class Spoken(NamedTuple):
    """An utterance where it lies."""

    split: str  # train, val or test; empty: none is published
    audio: Path
    text: str  # single spaces
    speaker: str  # empty: unknown
    start: float = 0.0  # of the part of the recording, seconds
    seconds: float | None = None  # length of the part; None: to the recording's end
    lang: str = ""  # empty: unknown


class LeftOut(NamedTuple):
    """An utterance that cannot be used."""

    why: str  # after a number, as in "without words"
    where: str  # the recording, or the row


Reader = Callable[[Path, tuple[str, ...], DataConfig], Iterator[Spoken | LeftOut]]


def librispeech(source: Path, subset: tuple[str, ...], cfg: DataConfig) -> Iterator[Spoken | LeftOut]:
    """LibriSpeech (openslr.org/12): ``PART/SPEAKER/CHAPTER/ID.flac`` with ``SPEAKER-CHAPTER.trans.txt``.

    The parts ``train-*`` are for training, ``dev-*`` for validation, ``test-*`` for the test; ``subset`` names parts.
    """
    for part in _folders(source, ("train-*", "dev-*", "test-*"), subset, _LIBRI):
        split = _SPLITS[part.name.partition("-")[0]]
        for table in sorted(part.glob("*/*/*.trans.txt")):
            for line in _lines(table, cfg):
                id, _, text = line.partition(" ")
                if not _is_name(id):
                    yield LeftOut("in malformed rows", f"{table}: {line[:_SHOWN]!r}")
                    continue
                yield Spoken(split, table.parent / f"{id}.flac", _spaced(text), table.parent.parent.name, lang="en")


def aishell1(source: Path, subset: tuple[str, ...], cfg: DataConfig) -> Iterator[Spoken | LeftOut]:
    """AISHELL-1 (openslr.org/33): ``wav/{train,dev,test}/SPEAKER/ID.wav``, and one table of all transcripts.

    The table, ``transcript/aishell_transcript_v0.8.txt``, separates words by spaces. These are no part of Mandarin's
    writing and are left out. It lacks some recordings; ``subset`` names ``train``, ``dev`` or ``test``.
    """
    table = next(iter(_found(source, "transcript/aishell_transcript_v*.txt")), None)
    if table is None:
        raise InputError(f"{source}: no transcript/aishell_transcript_v0.8.txt is here or two levels below. {_AISHELL}")
    wav = table.parent.parent / "wav"
    if not any(wav.glob("*/*/*.wav")) and any(wav.glob("*.tar.gz")):
        raise InputError(
            f"{wav}: the speakers' archives are not unpacked yet: "
            f"(cd {shlex.quote(str(wav))} && for each in *.tar.gz; do tar -xzf $each; done)"
        )
    texts = {}
    for line in _lines(table, cfg):
        id, *words = line.split()
        texts[id] = "".join(words)
    for part in _folders(wav, ("train", "dev", "test"), subset, _AISHELL):
        for recording in sorted(part.glob("*/*.wav")):
            text = texts.get(recording.stem)
            if text is None:
                yield LeftOut("without a transcript", str(recording))
                continue
            yield Spoken(_SPLITS[part.name], recording, text, recording.parent.name, lang="zh")


def commonvoice(source: Path, subset: tuple[str, ...], cfg: DataConfig) -> Iterator[Spoken | LeftOut]:
    """Common Voice: ``LANGUAGE/{train,dev,test}.tsv`` with ``client_id``, ``path`` and ``sentence``, and ``clips/``.

    ``subset`` names the language where the folder holds several.
    """
    found = [table.parent for table in _found(source, "train.tsv") if (table.parent / "clips").is_dir()]
    chosen = [folder for folder in found if not subset or folder.name in subset]
    if len(chosen) != 1:
        there = ", ".join(folder.name for folder in found)
        why = f"{there} are here; name one with --subset" if found else f"no train.tsv with clips/ is here. {_COMMON}"
        raise InputError(f"{source}: {why}")
    folder = chosen[0]
    for part in ("train", "dev", "test"):
        table = folder / f"{part}.tsv"
        lines = _lines(table, cfg) if table.exists() else iter(())
        names = next(lines, "").split("\t")
        if names != [""] and not {"client_id", "path", "sentence"} <= {*names}:
            raise InputError(f"{table}: no columns client_id, path and sentence in its first line; unpack it again")
        for line in lines:
            cells = dict(zip(names, line.split("\t"), strict=False))
            name, text = cells.get("path", ""), cells.get("sentence")
            if text is None or not _is_name(name):
                yield LeftOut("in malformed rows", f"{table}: {line[:_SHOWN]!r}")
                continue
            clip = folder / "clips" / (name if Path(name).suffix else f"{name}.mp3")
            yield Spoken(_SPLITS[part], clip, _unquoted(_spaced(text)), cells["client_id"], lang=folder.name)


def voxforge(source: Path, subset: tuple[str, ...], cfg: DataConfig) -> Iterator[Spoken | LeftOut]:
    """VoxForge: a folder per session, ``SPEAKER-DATE-ID/{wav,flac}/`` and ``etc/PROMPTS`` or ``etc/prompts-original``.

    Sets are not published: speakers are divided. Every anonymous session counts as a speaker.
    """
    if subset:
        raise InputError("voxforge has no parts; leave out --subset")
    sessions = sorted({table.parent.parent for name in _PROMPTS for table in _found(source, f"etc/{name}")})
    if not sessions:
        raise InputError(f"{source}: no session with etc/PROMPTS is here or two levels below. {_VOXFORGE}")
    for session in sessions:
        table = next(path for name in _PROMPTS if (path := session / "etc" / name).exists())
        speaker = _DATE.split(session.name)[0]
        try:
            lines = _lines(table, cfg)
        except InputError as error:  # of one session among thousands
            yield LeftOut("in tables that cannot be read", str(error))
            continue
        for line in lines:
            where, _, text = line.partition(" ")
            id = where.rpartition("/")[2]
            if not _is_name(id):
                yield LeftOut("in malformed rows", f"{table}: {line[:_SHOWN]!r}")
                continue
            tried = [session / kind / f"{id}.{kind}" for kind in ("wav", "flac")]
            recording = next((path for path in tried if path.exists()), tried[0])
            yield Spoken("", recording, _spaced(text), session.name if speaker == "anonymous" else speaker)


def tedlium3(source: Path, subset: tuple[str, ...], cfg: DataConfig) -> Iterator[Spoken | LeftOut]:
    """TED-LIUM 3 (openslr.org/51): ``legacy/{train,dev,test}/stm/TALK.stm``, with ``sph/TALK.sph`` beside ``stm``.

    Where ``legacy/train`` is not unpacked, ``data/stm`` and ``data/sph`` are for training. A line of a table is a part
    of a talk: talk, channel, speaker, beginning and end in seconds, description, words. Parts that the tables exclude
    from scoring are no utterances. ``<unk>`` is a word that the aligner did not know. ``subset`` names ``train``,
    ``dev`` or ``test``.
    """
    legacy = _found(source, "legacy")
    root = legacy[0].parent if legacy else next((path.parent for path in _found(source, "data/stm")), source)
    tables = {part: sorted((root / "legacy" / part / "stm").glob("*.stm")) for part in _SPLITS}
    tables["train"] = tables["train"] or sorted((root / "data" / "stm").glob("*.stm"))
    there = [part for part, found in tables.items() if found]
    if not there:
        raise InputError(f"{source}: no legacy/train/stm or data/stm is here or two levels below. {_TEDLIUM}")
    if strange := [name for name in subset if name not in there]:
        raise InputError(f"{source}: no part {strange[0]}; --subset can name {', '.join(there)}")
    for part in there:
        for table in tables[part] if not subset or part in subset else ():
            try:
                lines = _lines(table, cfg)
            except InputError as error:  # of one talk among thousands
                yield LeftOut("in tables that cannot be read", str(error))
                continue
            for line in lines:
                if not line.startswith(";;"):
                    yield from _of_talk(root, _SPLITS[part], table, line)


def _of_talk(root: Path, split: str, table: Path, line: str) -> Iterator[Spoken | LeftOut]:
    """The utterance of a line of a table of TED-LIUM; none for a gap between utterances."""
    talk, _, speaker, start, end, *words = [*line.split(maxsplit=5), *[""] * 5][:6]
    text = _DESCRIPTION.sub("", words[0])
    if "ignore_time_segment_in_scoring" in text:
        return
    try:
        first, last = float(start), float(end)
    except ValueError:
        first = last = -1.0
    if not (_is_name(talk) and 0 <= first < last < _LONGEST):
        yield LeftOut("in malformed rows", f"{table}: {line[:_SHOWN]!r}")
    else:
        # "it 's" is one word, and so is "the talk(2)", whose number chooses a pronunciation.
        text = _SUFFIX.sub("'", _NOISE.sub(" ", text))
        recording = table.parent.parent / "sph" / f"{talk}.sph"
        if not recording.exists() and (own := root / "data" / "sph" / recording.name).exists():
            recording = own  # to which the folders of the legacy distribution link
        yield Spoken(split, recording, _spaced(text), speaker, first, last - first, "en")


class PublishedLayout(NamedTuple):
    """A corpus's function, and where it is published."""

    read: Reader
    parts: str  # what to fetch


_SPLITS = {"train": "train", "dev": "val", "test": "test"}
_PROMPTS = ("PROMPTS", "prompts-original")
_DESCRIPTION = re.compile(r"^<(?!unk>|sil>)[^<>\s]*>\s*")  # of a talk's speaker, as in <o,f0,female> and <F0_M>
_NOISE = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|<sil>|\(\d+\)")
_SUFFIX = re.compile(r" +'(?=\w)")
_LONGEST = 1e6  # seconds of a talk
_DATE = re.compile(r"-\d{8}-")
_LIBRI = "Fetch train-clean-100.tar.gz, dev-clean.tar.gz and test-clean.tar.gz from openslr.org/12 and unpack them."
_AISHELL = "Fetch data_aishell.tgz from openslr.org/33, unpack it, and unpack the archives in its wav folder."
_TEDLIUM = "Fetch TEDLIUM_release-3.tgz from openslr.org/51 and unpack it."
_COMMON = "Fetch a language from commonvoice.mozilla.org/datasets and unpack it."
_VOXFORGE = "Fetch sessions from voxforge.org, Audio/Main/16kHz_16bit, and unpack them."
CORPORA = {
    "librispeech": PublishedLayout(librispeech, _LIBRI),
    "tedlium3": PublishedLayout(tedlium3, _TEDLIUM),
    "aishell1": PublishedLayout(aishell1, _AISHELL),
    "commonvoice": PublishedLayout(commonvoice, _COMMON),
    "voxforge": PublishedLayout(voxforge, _VOXFORGE),
}


def _folders(source: Path, patterns: Sequence[str], subset: tuple[str, ...], remedy: str) -> list[Path]:
    """The folders of a corpus's parts, at the first depth that has any.

    Raises:
      InputError: there is none, or not every one that ``subset`` names.
    """
    for depth in _DEPTHS:
        found = sorted(path for pattern in patterns for path in source.glob(f"{depth}{pattern}") if path.is_dir())
        if found:
            names = [path.name for path in found]
            if strange := [name for name in subset if name not in names]:
                raise InputError(f"{source}: no part {strange[0]}; --subset can name {', '.join(names)}")
            return [path for path in found if not subset or path.name in subset]
    raise InputError(f"{source}: no folder {' or '.join(patterns)} is here or two levels below. {remedy}")


def _found(source: Path, name: str) -> list[Path]:
    """Files of this name, at the first depth that has any."""
    for depth in _DEPTHS:
        if found := sorted(source.glob(f"{depth}{name}")):
            return found
    return []


def _lines(table: Path, cfg: DataConfig) -> Iterator[str]:
    """The lines of a table that are not empty.

    Raises:
      InputError: it is too large, or not UTF-8.
    """
    content = read_bounded(table, cfg.max_manifest_bytes, remedy="Raise it with --data.max_manifest_bytes.")
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{table}: byte {error.start} is not UTF-8; unpack it again") from error
    return (line.rstrip("\r") for line in lines if line.strip())


def _is_name(name: str) -> bool:
    """Whether a table names a file in its folder, and no other place."""
    return bool(name) and "\0" not in name and Path(name).name == name and name not in (".", "..")


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _unquoted(text: str) -> str:
    """Common Voice's sentences with quotation marks are in quotation marks, those inside doubled, as in CSV."""
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text
