"""Utterances in detail: spectrogram, posteriors and words on one time axis; and the sound, to be played."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds2f.errors import InputError
from launch.report.run_page.line_charts import WIDTH, Scale, Tick, label, ticks
from launch.report.run_page.run_record import RunRecord, Spoken, text

if TYPE_CHECKING:
    from ds2f.config import Config
    from ds2f.data.manifests import Utterance
    from ds2f.inference import Recognizer, Word
    from ds2f.runner.splits import Split

PLAYED_SECONDS = 20.0  # longest recording that is embedded
DRAWN_SECONDS = 12.0  # longest utterance that is drawn
MOST_DRAWN = 3
SOUND_BYTES = 3 << 20  # of all sounds together, as text
_LEFT, _RIGHT = 54, WIDTH - 10
_SPECTROGRAM, _ROW, _LANE = 96, 15, 19  # heights
_MOST_LABELS, _MOST_LANES = 14, 7
_LETTER = 8.2  # width of a column of text
_PIXELS = (360, 96)  # of the spectrogram's picture


class Sounds(NamedTuple):
    """The recordings of a set, by path and offset."""

    cfg: "Config"
    utterances: "dict[tuple[str, float | None], Utterance]"

    def of(self, spoken: Spoken) -> "Utterance | None":
        """The utterance of a line of ``transcripts.jsonl``; None if the manifest has none."""
        return self.utterances.get(_key(spoken.audio, spoken.offset))


class Placed(NamedTuple):
    """A word in time."""

    text: str  # empty: there is no room
    start: float
    end: float
    x: float
    y: int


class View(NamedTuple):
    """The figure of an utterance."""

    name: str
    reference: str
    description: str
    spectrogram: str  # data: addresses of pictures
    posteriors: str
    labels: list[str]
    kilohertz: list[Tick]
    seconds: list[Tick]
    words: list[Placed]
    lanes: int
    left: int = _LEFT
    right: int = _RIGHT
    width: int = WIDTH
    spectrogram_height: int = _SPECTROGRAM
    row: int = _ROW
    lane: int = _LANE


def open_sounds(run: RunRecord, name: str, wanted: Iterable[Spoken], splits: "Mapping[str, Split] | None") -> Sounds:
    """The recordings of some utterances.

    Args:
      run: the run.
      name: of their set.
      wanted: the utterances.
      splits: the splits that a training has read; None: read the set's manifest.

    Raises:
      InputError: the settings, the manifest or the recordings cannot be read.
    """
    from ds2f.checkpoint import load_config
    from ds2f.runner.splits import Split

    cfg = load_config(run.folder)
    split = splits[name] if splits and name in splits else Split.read(name, cfg)
    keys = {_key(each.audio, each.offset) for each in wanted}
    rows = (split.utterances[each.row] for each in split.dataset.examples)
    found = {key: each for each in rows if (key := _key(str(each.audio), each.start)) in keys}
    return Sounds(cfg, found)


def clips(sounds: Sounds, spoken: Iterable[Spoken]) -> dict[Spoken, str]:
    """The sounds that are short enough, as ``data:`` addresses, as long as there is room; others are left out."""
    from ds2f.data import audio_parts

    found: dict[Spoken, str] = {}
    room, rate = SOUND_BYTES, sounds.cfg.spect.sample_rate
    for each in spoken:
        utterance = sounds.of(each)
        if utterance is None or utterance.duration > PLAYED_SECONDS:
            continue
        try:
            samples = audio_parts.of(utterance, sample_rate=rate, max_seconds=PLAYED_SECONDS + 1).samples
        except (InputError, OSError):
            continue
        address = _sound(samples, rate)
        if len(address) <= room:
            room -= len(address)
            found[each] = address
    return found


def _sound(samples: NDArray[np.float32], rate: int) -> str:
    """MP3, or WAV where libsndfile writes no MP3."""
    import soundfile

    content = io.BytesIO()
    packed = "MP3" in soundfile.available_formats()
    kind, options = ("mpeg", {"format": "MP3"}) if packed else ("wav", {"format": "WAV", "subtype": "PCM_16"})
    soundfile.write(content, np.clip(samples, -1, 1), rate, **options)
    return f"data:audio/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def views(run: RunRecord, sounds: Sounds, spoken: Iterable[Spoken]) -> list[View]:
    """The figures of the first utterances that are short enough, by the run's best model on the CPU.

    Raises:
      InputError: the model cannot be read.
    """
    from ds2f.checkpoint import load_model
    from ds2f.config import BeamConfig
    from ds2f.data import audio_parts
    from ds2f.inference import Recognizer, calibration
    from ds2f.runner.device.backend import open_backend

    pairs = [(each, sounds.of(each)) for each in spoken]
    chosen = [(each, one) for each, one in pairs if one is not None and one.duration <= DRAWN_SECONDS][:MOST_DRAWN]
    if not chosen:
        return []
    cfg, params, stats = load_model(run.folder)
    calibrated = calibration.read(run.folder, params, stats, lm=BeamConfig(), warn=_ignored)
    recognizer = Recognizer(cfg, params, stats, backend=open_backend("cpu"), calibration=calibrated)
    found = []
    for each, utterance in chosen:
        try:
            recording = audio_parts.source(utterance, sample_rate=cfg.spect.sample_rate, max_seconds=DRAWN_SECONDS + 1)
            found.append(_view(recognizer, recording, each))
        except (InputError, OSError):
            continue
    return [each for each in found if each is not None]


def _view(recognizer: "Recognizer", recording: "object", spoken: Spoken) -> View | None:
    from ds2f.inference.recognizer import Part

    (part, *_) = recognizer.parts(recording)  # type: ignore[arg-type]
    if isinstance(part, InputError) or not isinstance(part, Part):
        return None
    (log_probs,) = recognizer.log_probs([part])
    if isinstance(log_probs, InputError):
        return None
    cfg, grid = recognizer.cfg, recognizer.grid
    seconds = len(log_probs) * grid.samples / grid.rate
    words = recognizer.segment(log_probs, 0.0, seconds).words
    x = Scale(0.0, seconds, _LEFT, _RIGHT)
    placed, lanes = place(words, x)
    best = list(dict.fromkeys(log_probs.argmax(dim=1).tolist()))
    rows = [index for index in best if index != cfg.model.blank][:_MOST_LABELS] + [cfg.model.blank]
    heard = ", ".join(f"{word.text} from {word.start:.2f} to {word.end:.2f} s" for word in words) or "no words"
    return View(
        name=spoken.audio.rpartition("/")[2][:80],
        reference=text(spoken.reference, 300),
        description=f"{label(seconds)} s of sound. Words: {heard}.",
        spectrogram=_spectrogram(part.features.numpy()),
        posteriors=_picture(log_probs.exp().numpy()[:, rows].T),
        labels=[_label_name(cfg.model.labels[index], index == cfg.model.blank) for index in rows],
        kilohertz=_kilohertz(cfg),
        seconds=ticks(x, most=8),
        words=placed,
        lanes=lanes,
    )


def place(words: "Sequence[Word]", x: Scale) -> tuple[list[Placed], int]:
    """Words in as many lanes as they need, none over another; a word without room is a line without text."""
    from ds2f import scripts

    ends: list[float] = []
    found = []
    for word in words:
        size = _LETTER * scripts.width(word.text) + 6
        at = max(_LEFT, min(x(word.start), _RIGHT - size))
        lane = next((number for number, end in enumerate(ends) if end <= at), len(ends))
        fits = lane < _MOST_LANES and size <= _RIGHT - _LEFT
        if not fits:
            lane, size = 0, 0.0
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = max(ends[lane], at + size, x(word.end))
        found.append(Placed(word.text if fits else "", x(word.start), x(word.end), round(at, 1), lane * _LANE))
    return found, max(1, len(ends))


def _spectrogram(values: NDArray[np.float32]) -> str:
    low, high = np.percentile(values, (20, 99.9))
    return _picture(((values - low) / max(high - low, 1e-3))[::-1], most=_PIXELS)


def _picture(values: NDArray[np.float32], most: tuple[int, int] | None = None) -> str:
    """A grey picture of values from 0 to 1, [rows, columns], as a ``data:`` address; white is 1."""
    from PIL import Image

    picture = Image.fromarray((values.clip(0, 1) * 255).astype(np.uint8))
    if most is not None:
        size = min(picture.width, most[0]), min(picture.height, most[1])
        picture = picture.resize(size, Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _kilohertz(cfg: "Config") -> list[Tick]:
    """Ticks at whole kilohertz; their places count from the top."""
    from ds2f.features import frequencies

    centres = frequencies(cfg.spect).numpy()
    places = (np.arange(len(centres)) + 0.5) / len(centres)
    every = 1000 * max(1, round(centres[-1] / 4000))
    shares = [(hertz, np.interp(hertz, centres, places)) for hertz in np.arange(0, centres[-1] + 1, every)]
    return [Tick(round(_SPECTROGRAM * (1 - float(share)), 1), f"{hertz / 1000:g}") for hertz, share in shares]


def _label_name(text: str, is_blank: bool) -> str:
    return "blank" if is_blank else "space" if text == " " else text[:4]


def _key(audio: str, offset: float | None) -> tuple[str, float | None]:
    return audio, None if offset is None else round(offset, 2)


def _ignored(_: str) -> None:
    pass
