"""Recordings that augmentation adds to utterances: noises and impulse responses, from their folders."""

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ds2f import augment, rng
from ds2f.config import AugmentationConfig
from ds2f.data import audio, codecs, suffixes
from ds2f.errors import InputError
from ds2f.files import files_below


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
    """Draws the recordings that a perturbation needs, and reads them.

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
            read[use] = _samples(path, sample_rate, max_seconds)
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


@functools.lru_cache(maxsize=16)
def _samples(path: Path, sample_rate: int, max_seconds: float) -> Tensor:
    return torch.from_numpy(audio.load(path, sample_rate=sample_rate, max_seconds=max_seconds).samples)


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
