"""The utterances of a split with their labels, and all settings of their features and augmentation."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from ds2f import augment, features, rng
from ds2f.config import AugmentationConfig, Config, DataConfig, SpectConfig
from ds2f.data import added_recordings, padding, problems
from ds2f.data.cache import FeatureCache
from ds2f.data.columns import Table
from ds2f.data.drawn_lengths import drawn_lengths, perturbed_lengths
from ds2f.data.examples import SHOWN, EncodedSplit, Example, encode_all
from ds2f.data.manifests import Utterance
from ds2f.data.problems import Checked, Problem, Remark
from ds2f.errors import InputError

__all__ = ["Dataset", "Example", "NothingLeftError", "assemble", "build"]


class NothingLeftError(InputError):
    """No utterance of a manifest can be used; the message gives the reasons for which utterances were left out."""


@attrs.frozen(kw_only=True, eq=False)
class Dataset:
    """Examples, and the settings of their loading. Picklable; loading changes the cache alone."""

    examples: Table[Example]
    remarks: tuple[Remark, ...]
    train: bool
    seed: int
    data: DataConfig
    spect: SpectConfig
    augmentation: AugmentationConfig
    added: added_recordings.Folders  # noises and impulse responses
    cache: FeatureCache | None
    time_stride: int  # frames of spectrogram per frame of logits
    shapes: tuple[int, ...]  # allowed padded lengths in frames, ascending; empty: all multiples of 8

    def key(self, index: int, epoch: int) -> int:
        """The random key of one example in one epoch."""
        return rng.fold_in(self.seed, "utterance", epoch, self.examples[index].row)

    def perturbation(self, index: int, epoch: int) -> augment.Perturbation:
        """The perturbation of one example's waveform in one epoch; none in evaluation."""
        if not self.train:
            return augment.Perturbation()
        return augment.draw(self.key(index, epoch), self.augmentation, sample_rate=self.spect.sample_rate)

    def num_frames(self, epoch: int, indices: Sequence[int] | None = None) -> NDArray[np.int64]:
        """Spectrogram frames of some examples (None: of all) in an epoch, [N], computed without reading audio."""
        places = slice(None) if indices is None else list(indices)
        samples = self.num_samples[places]
        if self.train:
            rows = self.examples.numbers("row")[places]
            keys = map(partial(rng.fold_in, self.seed, "utterance", epoch), rows.tolist())
            samples = drawn_lengths(samples, keys, self.augmentation, sample_rate=self.spect.sample_rate)
        return features.num_frames(samples, self.spect)

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Samples of each example before any augmentation, [N]."""
        return self.examples.numbers("num_samples").astype(np.int64)

    def with_statistics(self, mean: tuple[float, ...], deviation: float) -> "Dataset":
        """The dataset with the statistics of its features, ``feature_statistics.measure``, in its settings."""
        spect = attrs.evolve(self.spect, mean=mean, deviation=deviation)
        cache = FeatureCache(self.cache.directory.parent, spect) if self.cache else None
        return attrs.evolve(self, spect=spect, cache=cache)

    def longest(self) -> NDArray[np.int64]:
        """The greatest number of spectrogram frames of each example, over all epochs, [N]."""
        slowest = _perturbations(self.augmentation if self.train else None, self.spect.sample_rate)[0]
        return features.num_frames(perturbed_lengths(self.num_samples, slowest), self.spect)


def build(utterances: Iterable[Utterance], cfg: Config, *, train: bool, found: list[Problem] | None = None) -> Dataset:
    """Makes the dataset of a manifest.

    Training leaves out utterances by ``data.min_duration`` and ``data.max_duration``, and augments the others.
    Evaluation does neither. ``remarks`` counts the utterances that are left out, altered, or too short for their
    transcripts.

    Args:
      utterances: from ``manifests.read``.
      cfg: a resolved configuration.
      train: whether to leave out by duration, to augment and to shuffle.
      found: takes the problems of single utterances, which are left out: characters outside the labels under
        ``data.unknown_characters=error``, recordings that are too long; None: up to ``data.max_unusable`` are left out.

    Raises:
      InputError: a noise folder without recordings, no utterance left, or without ``found`` more utterances than
        ``data.max_unusable`` that cannot be used.
    """
    return assemble(encode_all(utterances, cfg, train=train), cfg, train=train, found=found)


def assemble(encoded: EncodedSplit, cfg: Config, *, train: bool, found: list[Problem] | None = None) -> Dataset:
    """Makes the dataset of selected utterances, as ``build`` does after ``encode_all``."""
    examples, remarks, faults = encoded.examples, list(encoded.remarks), encoded.problems
    if found is not None:
        found += faults
    else:
        left_out = problems.require_few([Checked("", "", encoded.utterances, faults)], limit=cfg.data.max_unusable)
        remarks += [Remark(each.what, len(faults), tuple(map(str, faults[:SHOWN]))) for each in left_out.values()]
    if len(examples) and not examples.lengths("labels").any():
        what = "with empty transcripts, and no other: there is nothing to learn and no error rate"
        remarks.append(Remark(what, len(examples), tuple(str(example.audio) for example in examples[:SHOWN])))
    if not len(examples):
        raise NothingLeftError("\n  ".join(["the manifest leaves no utterance to use", *map(str, remarks)]))
    dataset = Dataset(
        examples=examples,
        remarks=tuple(remarks),
        train=train,
        seed=cfg.training.seed,
        data=cfg.data,
        spect=cfg.spect,
        augmentation=_augmentation(cfg),
        added=added_recordings.found(cfg.augmentation) if train else added_recordings.Folders(),
        cache=FeatureCache(Path(cfg.data_path) / "cache", cfg.spect) if cfg.data.cache_features else None,
        time_stride=cfg.model.time_stride,
        shapes=_shapes(examples, cfg, train=train),
    )
    _require_fit(dataset)
    return dataset


def _augmentation(cfg: Config) -> AugmentationConfig:
    """The loader's augmentation: without masks under ``model.consistency``, which masks two views of each utterance."""
    if not cfg.model.consistency:
        return cfg.augmentation
    return attrs.evolve(cfg.augmentation, frequency_masks=0, time_masks=0)


def _perturbations(cfg: AugmentationConfig | None, sample_rate: int) -> list[augment.Perturbation]:
    """Typical perturbations of an utterance's length, the longest first; None: no augmentation.

    Every speed, each at the lowest, the mean and the highest tempo, with the longest silence and with none. Speed and
    tempo of 1 are among them if the probability of a change is below 1.
    """
    if cfg is None:
        return [augment.Perturbation()]
    tempos = sorted(
        {cfg.tempo_min, (cfg.tempo_min + cfg.tempo_max) / 2, cfg.tempo_max, *((1.0,) if cfg.tempo_prob < 1 else ())}
    )
    speeds = sorted({*(cfg.speeds or (1.0,)), *((1.0,) if cfg.speed_prob < 1 else ())})
    silences = sorted({round(cfg.silence * sample_rate), 0}, reverse=True)
    return [
        augment.Perturbation(speed=speed, tempo=tempo, before=silence, after=silence)
        for silence in silences
        for speed in speeds
        for tempo in tempos
    ]


def _shapes(examples: Table[Example], cfg: Config, *, train: bool) -> tuple[int, ...]:
    if not cfg.data.padded_shapes:
        return ()
    samples = examples.numbers("num_samples").astype(np.int64)
    counted = [
        np.unique(features.num_frames(perturbed_lengths(samples, how), cfg.spect), return_counts=True)
        for how in _perturbations(cfg.augmentation if train else None, cfg.spect.sample_rate)
    ]
    lengths, numbers = map(np.concatenate, zip(*counted, strict=True))
    return padding.choose(lengths, count=cfg.data.padded_shapes, numbers=numbers)


def _require_fit(dataset: Dataset) -> None:
    """Raises if a single utterance exceeds ``data.max_frames``."""
    limit = dataset.data.max_frames
    if not limit:
        return
    frames = padding.padded_lengths(dataset.longest(), dataset.shapes)
    most, more = int(frames.max()), int((frames > limit).sum()) - 1
    if most > limit:
        recording = dataset.examples[int(frames.argmax())].audio
        raise InputError(
            f"{recording}: up to {most} frames with padding, more than data.max_frames={limit} allows a whole batch"
            f"{f', and so have {more} others' if more else ''}. Take --data.max_frames={most} or more"
            f"{', or leave long recordings out, --data.max_duration=SECONDS' if dataset.train else ''}"
        )
