"""Writes how a training hears a recording: python -m launch.augment FILE --output=DIR --augmentation.reverb_prob=1."""

import sys
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import flag_effects, flags, guard, next_steps

if TYPE_CHECKING:
    from torch import Tensor

    from ds2f.config import AugmentationConfig, Config, SpectConfig
    from ds2f.data.added_recordings import Added, Folders

_USED = ("augmentation.", "spect.", "training.seed", "data.max_recording_seconds")

_DECIBELS = 1000.0  # spect.full_scale from which values are nearly decibels

flags.define()
absl_flags.DEFINE_string("output", "", "Folder for the waveforms and the pictures of their spectrograms.")
absl_flags.DEFINE_integer("copies", 4, "Number of copies: those of as many epochs, the first of them 0.", 1, 10_000)


class _Copy(NamedTuple):
    """A copy of the recording, as a training would hear it."""

    waveform: "Tensor"  # [N], float32
    features: "Tensor"  # [F, T], with warp and masks
    drawn: str


def main(arguments: list[str]) -> int:
    """Writes copies of a recording as WAV and PNG, and prints a line for each: what was drawn for it.

    Copy n is what a training with the same flags hears in epoch n - 1 of the first utterance of its manifest. Copy 0 is
    the recording itself, at the rate of the features. The waveforms have 32-bit floating-point samples, so that nothing
    is clipped. The pictures show warp and masks, too.
    """
    if len(arguments) != 2:
        raise InputError("name one recording: python -m launch.augment FILE --output=DIR --augmentation.reverb_prob=1")
    path, chosen = Path(arguments[1]), absl_flags.FLAGS
    if not chosen.output:
        raise InputError("--output=DIR is needed: the folder for waveforms and spectrograms")
    cfg = flags.config_from_flags()
    _require_effect(cfg)

    import torch

    from ds2f.data import added_recordings, audio
    from launch import spectrogram_picture

    torch.set_num_threads(1)
    folders, rate = added_recordings.found(cfg.augmentation), cfg.spect.sample_rate
    recording = audio.load(path, sample_rate=rate, max_seconds=cfg.data.max_recording_seconds)
    for note in recording.notes:
        guard.tell(f"augment: {path}: {note}")
    output = Path(chosen.output)
    output.mkdir(parents=True, exist_ok=True)
    waveform = torch.from_numpy(recording.samples)
    copies = (_hear(waveform, folders, cfg, epoch=epoch) for epoch in range(chosen.copies))
    scale, digits = None, len(str(chosen.copies))
    for number, copy in enumerate(chain([_unchanged(waveform, cfg)], copies)):
        scale = scale or spectrogram_picture.scale_of(copy.features)
        _write(copy, output / f"{path.stem}-{number:0{digits}}", cfg, scale=scale)
    typed = [argument for argument in sys.argv[1:] if argument.startswith(("--augmentation.", "--flagfile="))]
    guard.tell(next_steps.text(("train", *typed, "--data_path=data")))
    return 0


def _require_effect(cfg: "Config") -> None:
    """Raises for flags of the command line that other commands use, and where nothing is left to draw."""
    others = [
        name
        for name in absl_flags.FLAGS
        if flag_effects.typed(name) and flags.is_setting(name) and not name.startswith(_USED)
    ]
    if others:
        named = ", ".join(f"--{name}" for name in others)
        raise InputError(f"flags without effect: {named}. launch.augment takes augmentation.*, spect.*, training.seed")
    if not changes_something(cfg.augmentation):
        raise InputError(
            "no augmentation is on, and all copies would be the recording itself. Add flags such as "
            "--augmentation.reverb_prob=1, or the --flagfile of a training"
        )


def changes_something(cfg: "AugmentationConfig") -> bool:
    """Whether a step of the augmentation can change an utterance."""
    steps = (
        (any(speed != 1 for speed in cfg.speeds), cfg.speed_prob),
        (cfg.varies_tempo, cfg.tempo_prob),
        (cfg.silence, cfg.silence_prob),
        (True, cfg.reverb_prob),
        (cfg.varies_gain, cfg.gain_prob),
        (cfg.noise_dir, cfg.noise_prob),
        (True, cfg.band_prob),
        (True, cfg.codec_prob),
        (cfg.varies_warp, cfg.warp_prob),
        (cfg.frequency_masks and cfg.frequency_width, 1),
        (cfg.time_masks and cfg.time_width, 1),
    )
    return any(bool(change) and probability > 0 for change, probability in steps)


def _unchanged(waveform: "Tensor", cfg: "Config") -> _Copy:
    from ds2f.features import log_spectrogram

    return _Copy(waveform, log_spectrogram(waveform, _spect(cfg)), "as it is")


def _spect(cfg: "Config") -> "SpectConfig":
    """The settings of the pictures: those of the features, but nearly in decibels, as ears hear."""
    return attrs.evolve(cfg.spect, normalize="utterance", full_scale=max(cfg.spect.full_scale, _DECIBELS))


def _hear(waveform: "Tensor", folders: "Folders", cfg: "Config", *, epoch: int) -> _Copy:
    """Augments the recording as the first utterance of a training's manifest."""
    from ds2f import augment, rng
    from ds2f.data import added_recordings
    from ds2f.features import frequencies, log_spectrogram

    key, rate = rng.fold_in(cfg.training.seed, "utterance", epoch, 0), cfg.spect.sample_rate
    how = augment.draw(key, cfg.augmentation, sample_rate=rate)
    limit = cfg.data.max_recording_seconds
    added = added_recordings.drawn(folders, how, key, sample_rate=rate, max_seconds=limit)
    for file, reason in added.unreadable:
        guard.tell(f"augment: {file} is left out: {reason}")
    heard = added_recordings.perturb(waveform, added, key, sample_rate=rate)
    factor = augment.draw_warp(key, cfg.augmentation)
    features = augment.warp(log_spectrogram(heard, _spect(cfg)), factor, frequencies(cfg.spect))
    features = augment.spec_augment(features, key, cfg.augmentation)
    return _Copy(heard, features, described(added, factor, cfg))


def described(added: "Added", warp: float, cfg: "Config") -> str:
    """What was drawn for a copy, in the order of the chain."""
    how, files, rate = added.how, {use: shown(path.name) for use, path in added.files.items()}, cfg.spect.sample_rate
    masks = cfg.augmentation.frequency_masks, cfg.augmentation.time_masks
    steps = [
        (how.speed != 1, f"speed {how.speed:g}"),
        (how.tempo != 1, f"tempo {how.tempo:.3f}"),
        (how.before or how.after, f"silence {how.before / rate:.2f} s before, {how.after / rate:.2f} s after"),
        (how.room, how.room and f"room with RT60 {how.room.rt60:.2f} s, DRR {how.room.drr:.1f} dB"),
        (how.reverb and not how.room, f"impulse response {files.get('response')}"),
        (how.gain, f"gain {how.gain:.1f} dB"),
        (how.snr is not None, f"noise {files.get('noise')} at {how.snr or 0:.1f} dB"),
        (how.band, how.band and f"band {how.band[0]:.0f} to {how.band[1]:.0f} Hz"),
        (how.codec, f"codec {how.codec}"),
        (warp != 1, f"frequency warp {warp:.3f}"),
        (any(masks), f"masks: {masks[0]} of frequency, {masks[1]} of time"),
    ]
    return ", ".join(text for happens, text in steps if happens and text) or "unchanged"


def _write(copy: _Copy, name: Path, cfg: "Config", *, scale: tuple[float, float]) -> None:
    """Writes NAME.wav and NAME.png, and prints a line. The scale is that of the picture's colours."""
    import soundfile

    from ds2f.files import write_atomically
    from launch import spectrogram_picture

    file, rate = BytesIO(), cfg.spect.sample_rate
    soundfile.write(file, copy.waveform.numpy(), rate, format="WAV", subtype="FLOAT")
    sound, title = name.with_name(f"{name.name}.wav"), f"{name.name}: {copy.drawn}"
    write_atomically(sound, file.getvalue())
    picture = spectrogram_picture.png(copy.features, cfg.spect, scale=scale, title=title)
    write_atomically(name.with_name(f"{name.name}.png"), picture)
    print(f"{shown(str(sound))}  {len(copy.waveform) / rate:.2f} s  {copy.drawn}")


if __name__ == "__main__":
    flags.run(main, positional=True)
