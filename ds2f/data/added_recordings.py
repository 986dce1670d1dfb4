"""Recordings that augmentation adds to utterances: noises and impulse responses, from their folders."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ds2f import augment, rng
from ds2f.config import AugmentationConfig
from ds2f.data import audio, audio_parts, codecs, suffixes
from ds2f.errors import InputError
from ds2f.files import files_below

_PART = 30.0  # seconds of a noise that are read at a time: a training would else decode hours of music
_MARGIN = 0.1  # seconds left out at a long noise's end, since some headers promise a little too much
_LONGEST_RESPONSE = 10.0  # seconds: whoever names a folder of music means another flag


class Folders(NamedTuple):
    """The recordings in the folders of a configuration."""

    noises: tuple[Path, ...] = ()
    responses: tuple[Path, ...] = ()


class Added(NamedTuple):
    """What an utterance gets in an epoch."""

    how: augment.Perturbation  # without what needs a recording that cannot be read
    noise: Tensor | None
    response: Tensor | None
    files: dict[str, Path]  # the recordings by their use, ``noise`` and ``response``
    unreadable: list[tuple[Path, str]]  # recording, reason


def found(cfg: AugmentationConfig) -> Folders:
    """The recordings in ``noise_dir`` and ``reverb_dir``, or below them.

    Raises:
      InputError: a folder without recordings.
    """
    return Folders(
        noises=_recordings("noise_dir", cfg.noise_dir) if cfg.noise_dir else (),
        responses=_recordings("reverb_dir", cfg.reverb_dir) if cfg.reverb_dir and cfg.reverb_prob else (),
    )


def drawn(folders: Folders, how: augment.Perturbation, key: int, *, sample_rate: int, max_seconds: float) -> Added:
    """Draws the recordings that a perturbation needs, and reads them; of a long noise, a part of 30 seconds.

    Args:
      folders: from ``found``.
      how: from ``augment.draw``.
      key: the key that ``augment.draw`` got.
      sample_rate: hertz.
      max_seconds: limit of a recording's length.
    """
    read: dict[str, Tensor] = {}
    files: dict[str, Path] = {}
    unreadable: list[tuple[Path, str]] = []
    for use, paths, wanted in (
        ("noise", folders.noises, how.snr is not None),
        ("response", folders.responses, how.reverb and how.room is None),
    ):
        if not wanted:
            continue
        path = paths[rng.fold_in(key, use) % len(paths)]
        try:
            start = _noise_part(_seconds(path), key) if use == "noise" else None
            if use == "response":
                _require_short(path)
            read[use] = _samples(path, start, sample_rate, max_seconds)
            files[use] = path
        except InputError as error:
            unreadable.append((path, str(error)))
            how = how._replace(snr=None) if use == "noise" else how._replace(reverb=False)
    return Added(how, read.get("noise"), read.get("response"), files, unreadable)


def perturb(waveform: Tensor, added: Added, key: int, *, sample_rate: int) -> Tensor:
    """Applies ``augment.perturb`` with the recordings of ``drawn``, and any codec of ``codecs``."""
    return augment.perturb(
        waveform,
        added.how,
        key,
        sample_rate=sample_rate,
        noise=added.noise,
        response=added.response,
        coder=codecs.coded,
    )


@functools.lru_cache(maxsize=4096)
def _seconds(path: Path) -> float:
    return audio.info(path).duration


def _noise_part(seconds: float, key: int) -> float | None:
    """Where the part of a noise begins that is read, seconds; None: all of it is read."""
    if seconds <= _PART + _MARGIN:
        return None
    parts = math.ceil((seconds - _MARGIN) / _PART)
    return min(_PART * (rng.fold_in(key, "noise part") % parts), seconds - _MARGIN - _PART)


def _require_short(path: Path) -> None:
    if (seconds := _seconds(path)) > _LONGEST_RESPONSE:
        raise InputError(
            f"{path}: {seconds:.0f} s are too long for an impulse response, which has at most {_LONGEST_RESPONSE:g} s; "
            "cut it, or take it out of augmentation.reverb_dir"
        )


@functools.lru_cache(maxsize=16)
def _samples(path: Path, start: float | None, sample_rate: int, max_seconds: float) -> Tensor:
    limit = max_seconds if start is None else max(max_seconds, _PART)
    samples = round(_PART * sample_rate)
    return torch.from_numpy(audio_parts.load(path, start, samples, sample_rate=sample_rate, max_seconds=limit).samples)


def _recordings(flag: str, folder: str) -> tuple[Path, ...]:
    files = files_below(Path(folder))
    recordings = tuple(path for path in files if suffixes.is_recording(path))
    if not recordings:
        raise InputError(
            f"augmentation.{flag}={folder}: no recordings in a format that soundfile reads ("
            f"{suffixes.convertible(files) or 'such as .wav'}) in it or below it; name a folder that holds "
            "some, or leave the flag out"
        )
    return recordings
