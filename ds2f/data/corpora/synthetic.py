"""A corpus that needs no download: sentences of AN4's kind, spoken by espeak-ng in many voices.

It replaces AN4 where no download is possible, and shows in minutes that everything works. All voices come from one
synthesiser, so results say nothing about accuracy on people.
"""

import hashlib
import importlib.metadata
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds2f.data import audio
from ds2f.data.corpora import espeak, layout
from ds2f.errors import InputError
from ds2f.extras import import_extra
from ds2f.processes import cpu_count
from ds2f.rng import fold_in

NAME = "synthetic"
UTTERANCES: Mapping[str, int] = {"train": 1200, "val": 60, "test": 100}
VOICES: Mapping[str, tuple[str, ...]] = {  # variants of espeak-ng's American English; no voice in two sets
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

_DIGITS = ("ZERO", "OH", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_TEENS = ("TEN", "ELEVEN", "TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN", "NINETEEN")
_TENS = ("TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY")
_MONTHS = (
    *("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE"),
    *("JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER"),
)
_ORDINALS = ("FIRST", "SECOND", "THIRD", "FOURTH", "FIFTH", "SIXTH", "SEVENTH", "EIGHTH", "NINTH", "TENTH", "TWELFTH")
_ALONE = ("YES", "NO", "GO", "STOP", "HELP", "START", "ENTER", "ERASE", "REPEAT")
_COMMANDS = ("ENTER", "ERASE", "RUBOUT", "REPEAT")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAMES = (
    "ADAMS ALICE AMBER BAKER BLAKE BOSTON BRIAN BRUCE CAROL CHICAGO CLARK DALLAS DAVID DENVER DIANE EDITH ELLIS "
    "EMILY ERIC EVANS FELIX FLOYD FRANK GRACE GRANT GREEN HARRY HELEN HENRY HUGHES IRENE ISAAC JAMES JASON JOYCE "
    "JULIA KAREN KEITH KELLY LAURA LEWIS LINDA LOGAN MARTIN MAXINE MIAMI MOORE NANCY NEWTON NORMAN OAKLAND OLIVER "
    "OSCAR PARIS PETER PHILIP QUENTIN QUINN RALPH REGINA ROBERT SALEM SIMON SUSAN TAMPA TAYLOR TULSA URBAN UTICA "
    "VICTOR VIOLA WALKER WALTER WENDY XAVIER YONKERS YVONNE ZELDA ZURICH"
)


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
    workers: int = 0,
    progress: layout.Progress = layout.silent,
) -> layout.Corpus:
    """Makes the synthetic corpus in ``data_path``, unless it is there already.

    The three sets share neither voices nor sentences (training may repeat a sentence in another voice). The same
    seed gives the same bytes for any number of workers, with the same espeakng-loader, soxr and kind of processor.

    Args:
      data_path: where manifests and recordings go.
      seed: decides the sentences and their delivery.
      utterances: the number for each of ``train``, ``val`` and ``test``.
      workers: sentences spoken at the same time; 0: one per processor.
      progress: called after every utterance.

    Raises:
      InputError: espeak-ng is not installed or does not work; says how to install it.
    """
    library, data, version = _locate_espeak()
    lines = script(seed, utterances)
    sentences = [_direction(line) for line in lines]
    spoken = hashlib.sha256(repr((lines, sentences)).encode()).hexdigest()
    origin = {"corpus": NAME, "seed": seed, "script": spoken, "room": _ROOM_VERSION, "espeakng": version}
    if found := layout.existing(data_path, name=NAME, origin=origin):
        return found
    try:
        with espeak.speaking(sentences, library=library, data=data, workers=workers or cpu_count()) as speeches:
            recordings = _recordings(lines, speeches, progress)
            return layout.publish(recordings, data_path, name=NAME, origin=origin, verdict=_VERDICT)
    except espeak.SpeechError as error:
        raise InputError(
            f"espeak-ng: {error}; install it again: pip install --force-reinstall espeakng-loader"
        ) from error


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


def script(seed: int, utterances: Mapping[str, int]) -> list[_Line]:
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
            key = fold_in(seed, NAME, split, index)
            transcript = _new_sentence(random.Random(fold_in(key, "sentence")), taken)
            said.add(transcript)
            speaker = voices[index % len(voices)]
            lines.append(_Line(split, f"{index:05d}-{speaker.lower()}", speaker, transcript, key))
        taken |= said
    return lines


def _new_sentence(draw: random.Random, taken: Collection[str]) -> str:
    for _ in range(1000):
        sentence = " ".join(draw.choice(_KINDS)(draw))
        if sentence not in taken:
            return sentence
    raise InputError("the grammar has no new sentences left; ask for fewer utterances")


def _alone(draw: random.Random) -> list[str]:
    return [draw.choice(_ALONE)]


def _command(draw: random.Random) -> list[str]:
    letters = [draw.choice(_LETTERS) for _ in range(draw.randint(0, 3))]
    return [draw.choice(_COMMANDS), *letters, *draw.choice((_digits, _numbers))(draw)[:2]]


def _spelled(draw: random.Random) -> list[str]:
    if draw.random() < 0.5:
        return list(draw.choice(_NAMES.split()))
    return [draw.choice(_LETTERS) for _ in range(draw.randint(3, 6))]


def _digits(draw: random.Random) -> list[str]:
    return [draw.choice(_DIGITS) for _ in range(draw.randint(2, 5))]


def _numbers(draw: random.Random) -> list[str]:
    words = []
    for _ in range(draw.randint(1, 2)):
        words += [draw.choice(_TENS), draw.choice(_DIGITS[2:])] if draw.random() < 0.7 else [draw.choice(_TEENS)]
    return words


def _date(draw: random.Random) -> list[str]:
    return [draw.choice(_MONTHS), draw.choice(_ORDINALS), *(["NINETEEN", *_numbers(draw)[:2]] * draw.randint(0, 1))]


_KINDS = (
    _alone,
    _command,
    _command,
    _spelled,
    _spelled,
    _digits,
    _numbers,
    _date,
)  # a kind's probability follows from its number of entries


def _direction(line: _Line) -> espeak.Sentence:
    """The delivery of a line: the speaker's own pace and pitch, with a small variation."""
    person = random.Random(fold_in(0, "speaker", line.speaker))
    now = random.Random(fold_in(line.key, "delivery"))
    return espeak.Sentence(
        text=_spoken_form(line.transcript),
        voice=f"en-us+{line.speaker}",
        rate=person.randint(140, 190) + now.randint(-8, 8),
        pitch=person.randint(35, 65) + now.randint(-4, 4),
        intonation=person.randint(35, 65),
    )


def _spoken_form(transcript: str) -> str:
    """Text for espeak-ng: a comma after each letter, so that A is no article; RUBOUT as two words."""
    words = [f"{word}," if len(word) == 1 else word.lower().replace("rubout", "rub out") for word in transcript.split()]
    return " ".join(words).rstrip(",")


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
