"""A corpus that needs no download: sentences of a grammar, in one of several languages, spoken by espeak-ng.

The English corpus has sentences of AN4's kind. It replaces AN4 where no download is possible, and shows in minutes that
everything works. All voices come from one synthesiser, so results say nothing about accuracy on people.
"""

import hashlib
import importlib.metadata
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray

from ds2f import text
from ds2f.data import audio
from ds2f.data.corpora import espeak, label_lists, layout
from ds2f.data.corpora.grammars import GRAMMARS
from ds2f.errors import InputError
from ds2f.extras import import_extra
from ds2f.processes import cpu_count
from ds2f.rng import fold_in

NAME = "synthetic"
ENGLISH = "en"
UTTERANCES: Mapping[str, int] = {"train": 1200, "val": 60, "test": 100}
VOICES: Mapping[str, tuple[str, ...]] = {  # variants of espeak-ng's voices; no voice in two sets
    "train": (
        *("m1", "m2", "m3", "m5", "m7", "m8", "f1", "f2", "f3", "f5"),
        *("Alex", "Andrea", "Annie", "Jacky", "Mario", "Michael", "Denis", "Hugo"),
        *("adam", "boris", "shelby", "david", "john", "linda", "rob", "steph"),
    ),
    "val": ("m6", "Alicia", "edward", "robert"),
    "test": ("m4", "f4", "Lee", "Gene", "paul", "belinda"),
}

_ROOM_VERSION = 1  # increase it when ``_in_a_room`` changes, so that older corpora are made again
_VERDICT = "No voice and no sentence is in two sets. Synthetic speech says nothing about accuracy on people."
_PAUSE = (0.10, 0.25)  # seconds of room noise before and after the words
_NOISE = (1.0, 6.0)  # standard deviation of the room noise, in steps of int16


class _Line(NamedTuple):
    split: str
    id: str
    speaker: str  # the voice's variant
    transcript: str
    key: int  # of everything random about its sound


def prepare(
    data_path: Path,
    *,
    seed: int = 0,
    utterances: Mapping[str, int] = UTTERANCES,
    language: str = ENGLISH,
    workers: int = 0,
    progress: layout.Progress = layout.silent,
) -> layout.Corpus:
    """Makes the synthetic corpus in ``data_path``, unless it is there already.

    The three sets share neither voices nor sentences (training may repeat a sentence in another voice). The same
    seed gives the same bytes for any number of workers, with the same espeakng-loader, soxr and kind of processor.
    Beside a corpus in another language than English lie its labels, ``NAME_labels.json``: the characters of the
    training transcripts.

    Args:
      data_path: where manifests and recordings go.
      seed: decides the sentences and their delivery.
      utterances: the number for each of ``train``, ``val`` and ``test``.
      language: of the sentences and voices, one of ``GRAMMARS``.
      workers: sentences spoken at the same time; 0: one per processor.
      progress: called after every utterance.

    Raises:
      InputError: espeak-ng is not installed or does not work; says how to install it.
    """
    library, data, version = _locate_espeak()
    name = corpus_name(language)
    lines = script(seed, utterances, language)
    sentences = [_direction(line, language) for line in lines]
    spoken = hashlib.sha256(repr((lines, sentences)).encode()).hexdigest()
    origin = {"corpus": name, "seed": seed, "script": spoken, "room": _ROOM_VERSION, "espeakng": version}
    found = layout.existing(data_path, name=name, origin=origin)
    layout.make_folder(data_path)
    labels = labels_path(data_path, language)
    if labels and not (found and labels.exists()):
        characters = text.characters(line.transcript for line in lines if line.split == "train")
        label_lists.write(labels, label_lists.of(characters))
    if found:
        return attrs.evolve(found, labels_path=labels)
    try:
        with espeak.speaking(sentences, library=library, data=data, workers=workers or cpu_count()) as speeches:
            recordings = _recordings(lines, speeches, progress)
            made = layout.publish(recordings, data_path, name=name, origin=origin, verdict=_VERDICT)
    except espeak.SpeechError as error:
        raise InputError(
            f"espeak-ng: {error}; install it again: pip install --force-reinstall espeakng-loader"
        ) from error
    return attrs.evolve(made, labels_path=labels)


def corpus_name(language: str) -> str:
    """The name of the corpus in a language: ``synthetic`` in English, ``synthetic_cmn`` in Mandarin."""
    return NAME if language == ENGLISH else f"{NAME}_{language}"


def labels_path(data_path: Path, language: str) -> Path | None:
    """The corpus's file of labels; None for English, which is written with the default labels."""
    return None if language == ENGLISH else data_path / f"{corpus_name(language)}_labels.json"


def parse_counts(texts: Sequence[str]) -> dict[str, int]:
    """Utterances per split from the three numbers of ``--utterances``.

    Raises:
      InputError: these are not three whole numbers, 1 or more.
    """
    if len(texts) != len(layout.SPLITS) or not all(text.isdecimal() and int(text) for text in texts):
        raise InputError(
            f"--utterances={','.join(texts)}: give three numbers, 1 or more, for training, validation and test: "
            "--utterances=1200,60,100"
        )
    return dict(zip(layout.SPLITS, map(int, texts), strict=True))


def script(seed: int, utterances: Mapping[str, int], language: str = ENGLISH) -> list[_Line]:
    """The sentences and voices of all splits.

    Raises:
      InputError: the grammar has too few sentences for so many utterances in sets that share none.
    """
    lines: list[_Line] = []
    taken: set[str] = set()
    for split in layout.SPLITS:
        said: set[str] = set()
        voices = VOICES[split]
        for index in range(utterances[split]):
            key = fold_in(seed, corpus_name(language), split, index)
            transcript = _new_sentence(language, random.Random(fold_in(key, "sentence")), taken)
            said.add(transcript)
            speaker = voices[index % len(voices)]
            lines.append(_Line(split, f"{index:05d}-{speaker.lower()}", speaker, transcript, key))
        taken |= said
    return lines


def _new_sentence(language: str, draw: random.Random, taken: Collection[str]) -> str:
    for _ in range(1000):
        sentence = GRAMMARS[language].sentence(draw)
        if sentence not in taken:
            return sentence
    raise InputError("the grammar has no new sentences left; ask for fewer utterances")


def _direction(line: _Line, language: str) -> espeak.Sentence:
    """The delivery of a line: the speaker's own pace and pitch, with a small variation."""
    grammar = GRAMMARS[language]
    person = random.Random(fold_in(0, "speaker", line.speaker))
    now = random.Random(fold_in(line.key, "delivery"))
    return espeak.Sentence(
        text=grammar.spoken_form(line.transcript),
        voice=f"{grammar.voice}+{line.speaker}",
        rate=person.randint(*grammar.pace) + now.randint(-8, 8),
        pitch=person.randint(35, 65) + now.randint(-4, 4),
        intonation=person.randint(35, 65),
    )


def _recordings(
    lines: list[_Line], speeches: Iterator[espeak.Speech], progress: layout.Progress
) -> Iterator[layout.Recording]:
    for line, speech in zip(lines, speeches, strict=True):
        samples = _in_a_room(np.frombuffer(speech.samples, np.int16), speech.sample_rate, line.key)
        yield layout.Recording(line.split, line.id, line.speaker, line.transcript, samples)
        progress("speaking", speech.number + 1, len(lines))


def _in_a_room(speech: NDArray[np.int16], sample_rate: int, key: int) -> NDArray[np.int16]:
    """Resamples to 16 kHz and adds pauses and faint noise: no microphone records digital silence."""
    draw = np.random.Generator(np.random.PCG64(fold_in(key, "room")))
    before, after = (round(seconds * layout.SAMPLE_RATE) for seconds in draw.uniform(*_PAUSE, size=2))
    words = audio.resample(speech.astype(np.float32), sample_rate, layout.SAMPLE_RATE)
    sound = np.pad(words, (before, after)) + draw.uniform(*_NOISE) * draw.standard_normal(before + len(words) + after)
    return np.clip(np.rint(sound), -32768, 32767).astype(np.int16)


def _locate_espeak() -> tuple[str, str, str]:
    """Library, data folder and version of espeak-ng."""
    espeakng_loader = import_extra(
        "espeakng_loader",
        need="the synthetic corpus is spoken by espeak-ng and needs espeakng-loader",
        remedy="pip install 'ds2f[quickstart]' (or pip install espeakng-loader)",
    )
    data = Path(espeakng_loader.get_data_path())
    lacking = [
        voice for voices in VOICES.values() for voice in voices if not (data / "voices" / "!v" / voice).is_file()
    ]
    if lacking:
        raise InputError(f"{data}: lacks the voices {', '.join(lacking)}; pip install espeakng-loader==0.2.4")
    return str(espeakng_loader.get_library_path()), str(data), importlib.metadata.version("espeakng-loader")
