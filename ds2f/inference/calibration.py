"""Calibration of a run: how sure its words are, how late it names them, and the file that says so.

A calibration holds for one set of weights and one decoder: the file keeps several, each with the digest of the weights
and the settings of the decoder.

A model trained by CTC names a character when it is sure of it, some time after the character's sound began. The delay
is measured where the truth is known: the first word of a recording begins where its energy rises.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray

from ds2f.checkpoint.exported import folder_of, weights_digest
from ds2f.config import BeamConfig
from ds2f.errors import InputError
from ds2f.files import is_local, json_text, read_bounded, write_atomically
from ds2f.inference.confidence import Calibration, confidence, fit, normalised_cross_entropy
from ds2f.inference.pauses import Energy, level
from ds2f.types import Params, Stats

FILE = "calibration.json"  # in the folder of a run
LONGEST_DELAY = 2.0  # seconds, either way
_STEEPEST, _FARTHEST = 1000.0, 1000.0  # slope, and the size of the intercept
_BYTES = 1 << 16
_MOST = 16  # calibrations in a file; the oldest gives way
_GREEDY = BeamConfig()
_NO_DECODER = ("workers", "hot_words", "hot_words_boost")  # settings that do not decide about the decoder
_REMEDY = "make it again with python -m launch.calibrate --run_dir={run}, or remove it"

_LOG = logging.getLogger(__name__)
_HOP = 0.005  # seconds between measurements of the level
_NOISE, _SPEECH = 5, 95  # percentiles of the levels that stand for noise and for speech
_RISE = 0.35  # of the way from noise to speech, in decibels
_LEAST_CONTRAST = 15.0  # decibels from noise to speech; with less, the onset is not clear
_PAUSE = 0.15  # seconds of a pause within a recording, at least
_STEADY = 0.03  # seconds that a sound lasts, so that it is no click
_LEAST_ONSETS = 5  # from fewer, no delay is told


class Measured(NamedTuple):
    """A calibration, and what it is worth on the words that it was fitted to."""

    calibration: Calibration
    words: int
    right: int
    before: float  # normalised cross entropy without calibration; NaN where it is not defined
    after: float  # and with it
    onsets: int  # recordings that the delay is the median of


def measure(scores: Sequence[float], right: Sequence[bool], delays: Sequence[float]) -> Measured:
    """Fits the calibration of a model.

    Args:
      scores: log-posteriors of the words of a validation set, as of ``decode.words``.
      right: whether each word is right.
      delays: seconds from the onset of a recording to the frame of its first character.
    """
    found = fit(scores, right, delay=delay_of(delays))
    plain = [confidence(score) for score in scores]
    fitted = [confidence(score, found) for score in scores]
    entropies = normalised_cross_entropy(plain, right), normalised_cross_entropy(fitted, right)
    return Measured(found, len(scores), sum(right), *entropies, len(delays))


def delay_of(delays: Sequence[float]) -> float:
    """The median delay, seconds; 0 from fewer than five, and at most two seconds either way.

    >>> delay_of([0.1, 0.11, 0.1, 0.12, 5.0]), delay_of([0.1])
    (0.11, 0.0)
    """
    if len(delays) < _LEAST_ONSETS:
        return 0.0
    return min(max(float(median(delays)), -LONGEST_DELAY), LONGEST_DELAY)


def onset(samples: NDArray[np.float32], rate: int) -> float | None:
    """When the energy of a recording rises to that of speech, seconds.

    Args:
      samples: [N], full scale 1.
      rate: samples per second.

    Returns:
      None if the recording begins with speech, or if speech and noise are less than 15 dB apart.
    """
    hop = round(_HOP * rate)
    levels = level(samples, hop)
    steady = round(_STEADY / _HOP)
    if len(levels) < steady:
        return None
    noise, speech = np.percentile(levels, (_NOISE, _SPEECH))
    if speech - noise < _LEAST_CONTRAST:
        return None
    loud = np.lib.stride_tricks.sliding_window_view(levels > noise + _RISE * (speech - noise), steady).all(axis=1)
    first = int(loud.argmax())
    return first * hop / rate if loud.any() and first > 0 else None


def later_onsets(samples: NDArray[np.float32], rate: int) -> list[float]:
    """When sound begins again after the pauses of a recording, seconds; arguments of ``onset``.

    They tell more than the first onset. A CTC model often names the first character of a recording at its very
    beginning, before the sound, since nothing else can come before it.
    """
    detector = Energy(rate)
    levels = detector.measure(samples)
    if not len(levels):
        return []
    quiet = np.concatenate(([False], detector.quiet(levels), [False]))
    edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
    steady = round(_STEADY * rate / detector.hop)
    return [
        last * detector.hop / rate
        for first, last in edges.tolist()
        if first > 0
        and (last - first) * detector.hop >= _PAUSE * rate
        and last + steady <= len(levels)
        and not quiet[last + 1 : last + 1 + steady].any()
    ]


def decoder_settings(lm: BeamConfig) -> dict[str, Any]:
    """The settings that decide about a decoder's words; a language model by its file's name and size.

    Hot words are left out: they are others from recording to recording.
    """
    if not lm.searches:
        return {"decoder": "greedy"}
    settings = {name: value for name, value in attrs.asdict(lm).items() if name not in _NO_DECODER} | {
        "decoder": "beam"
    }
    if lm.path:
        settings |= {"path": Path(lm.path).name, "bytes": Path(lm.path).stat().st_size}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def write(
    run_dir: Path, found: Measured, params: Params, stats: Stats, *, which: str, lm: BeamConfig = _GREEDY
) -> Path:
    """Writes a calibration into the folder of a run, beside those of other weights and decoders.

    Args:
      run_dir: the folder; or an exported model's file, in whose folder the calibration is written.
      found: the calibration.
      params: parameters of the model that it was measured with.
      stats: running statistics of the model.
      which: checkpoint, for readers.
      lm: decoder.

    Returns:
      The file's path. A file that cannot be read is replaced.
    """
    path = folder_of(run_dir) / FILE
    entry = found.calibration._asdict() | {
        "weights": weights_digest(params, stats),
        "decoder": decoder_settings(lm),
        "which": which,
        "words": found.words,
        "right": found.right,
        "onsets": found.onsets,
        "normalised_cross_entropy": {"before": found.before, "after": found.after},
    }
    try:
        others = [each for each in _entries(path, "") if not _same(each, entry, "weights", "decoder")]
    except InputError:
        others = []
    content = {"calibrations": [*others, entry][-_MOST:]}
    write_atomically(path, json_text(content, indent=2) + "\n")
    return path


def read(
    run_dir: Path,
    params: Params,
    stats: Stats,
    *,
    lm: BeamConfig = _GREEDY,
    weights: str = "",
    warn: Callable[[str], None] = _LOG.warning,
) -> Calibration:
    """Reads the calibration of a run's model and decoder; the default, which changes nothing, if there is no file.

    Args:
      run_dir: the folder of the run; or an exported model's file, beside which the calibration lies.
      params: parameters of the model.
      stats: running statistics of the model.
      lm: decoder.
      weights: digest of parameters and statistics, in place of both, for an exported program, which does not show them.
      warn: called with one line if the file has calibrations of other weights or decoders only, of which the nearest
        is taken: the same weights first, then the same decoder, then the newest.

    Raises:
      InputError: the file is not that of ``write``, or has impossible numbers.
    """
    path, remedy = folder_of(run_dir) / FILE, _REMEDY.format(run=run_dir)
    if is_local(path) and not path.exists():
        return Calibration()
    entries = _entries(path, remedy)
    if not entries:
        return Calibration()
    mine = {"weights": weights or weights_digest(params, stats), "decoder": decoder_settings(lm)}
    best = max(reversed(entries), key=lambda each: (_same(each, mine, "weights"), _same(each, mine, "decoder")))
    others = " and ".join(name for name in mine if not _same(best, mine, name))
    if others:
        run, after = ("RUN", ", and export the run again") if weights else (run_dir, "")
        warn(
            f"{path}: measured with another {others.replace('weights', 'model')}, so that confidences and times may be "
            f"off; run python -m launch.calibrate --run_dir={run} with the same --which and --lm.* flags{after}"
        )
    return Calibration(*(float(best[name]) for name in Calibration._fields))


def _same(one: Mapping[str, Any], other: Mapping[str, Any], *names: str) -> bool:
    return all(one[name] == other[name] for name in names)


def _entries(path: Path, remedy: str) -> list[dict[str, Any]]:
    """The calibrations of a file, checked; none without the file."""
    try:
        found = json.loads(read_bounded(path, _BYTES, remedy=remedy[:1].upper() + remedy[1:]))
        entries = found["calibrations"]
        for entry in entries:
            slope, intercept, delay = (_number(entry, name) for name in Calibration._fields)
            if not (isinstance(entry["weights"], str) and isinstance(entry["decoder"], dict)):
                raise ValueError("weights or decoder are missing")
            if not (0 < slope <= _STEEPEST and abs(intercept) <= _FARTHEST and abs(delay) <= LONGEST_DELAY):
                raise InputError(f"{path}: slope {slope}, intercept {intercept}, delay {delay} cannot be; {remedy}")
        return list(entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {remedy}") from error
    except (ValueError, OverflowError, RecursionError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a calibration ({error}); {remedy}") from error


def _number(found: Any, name: str) -> float:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} is no number")
    return float(value)
