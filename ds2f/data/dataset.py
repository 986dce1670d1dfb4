"""The utterances of a split with their labels, and all settings of their features and augmentation."""

import operator
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import attrs

from ds2f import augment, features, rng, text
from ds2f.config import AugmentationConfig, Config, DataConfig, SpectConfig
from ds2f.convolutions import output_lengths
from ds2f.data import added_recordings, audio, audio_parts, padding, problems
from ds2f.data.cache import FeatureCache
from ds2f.data.manifests import Utterance
from ds2f.data.problems import Checked, Problem, Remark
from ds2f.errors import InputError

_SHOWN = 5  # recordings that a remark names
_CHARACTERS = 50  # characters outside the labels that a remark names
_QUOTED = 200  # characters of a transcript that a message quotes
_STRANGE = {
    "drop_character": "used without their characters outside the labels ({characters})",
    "drop_utterance": "left out for characters outside the labels ({characters})",
}


class NothingLeftError(InputError):
    """No utterance of a manifest can be used; the message gives the reasons for which utterances were left out."""


class Example(NamedTuple):
    """An utterance as the loader needs it."""

    row: int  # of the manifest
    audio: Path
    num_samples: int  # at the rate of the spectrogram, before any augmentation
    labels: tuple[int, ...]
    min_frames: int  # frames of logits that the transcript needs at least
    start: float | None = None  # of a part of the recording, seconds; None: the whole recording


@attrs.frozen(kw_only=True, eq=False)
class Dataset:
    """Examples, and the settings of their loading. Picklable; loading changes the cache alone."""

    examples: tuple[Example, ...]
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

    def num_frames(self, epoch: int, indices: Iterable[int] | None = None) -> list[int]:
        """Spectrogram frames of some examples (None: of all) in an epoch, computed without reading audio."""
        return [
            features.num_frames(
                self.perturbation(index, epoch).num_samples(self.examples[index].num_samples), self.spect
            )
            for index in (range(len(self.examples)) if indices is None else indices)
        ]

    def with_statistics(self, mean: tuple[float, ...], deviation: float) -> "Dataset":
        """The dataset with the statistics of its features, ``feature_statistics.measure``, in its settings."""
        spect = attrs.evolve(self.spect, mean=mean, deviation=deviation)
        cache = FeatureCache(self.cache.directory.parent, spect) if self.cache else None
        return attrs.evolve(self, spect=spect, cache=cache)

    def longest(self) -> list[int]:
        """The greatest number of spectrogram frames of each example, over all epochs."""
        slowest = _perturbations(self.augmentation if self.train else None, self.spect.sample_rate)[0]
        return [features.num_frames(slowest.num_samples(each.num_samples), self.spect) for each in self.examples]


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
    examples: list[Example] = []
    seen: dict[str, list[str]] = defaultdict(list)
    strange: Counter[str] = Counter()
    faults: list[Problem] = []
    rows = list(utterances)
    for utterance in rows:
        recording = utterance.name
        if train and (why := _pruned(utterance.duration, cfg.data)):
            seen[why].append(recording)
            continue
        if problem := _problem(utterance, cfg, train=train):
            faults.append(problem)
            continue
        labels, unknown = _encode(utterance, cfg)
        if unknown:
            strange += unknown
            seen[_STRANGE[cfg.data.unknown_characters]].append(recording)
        if labels is None:
            continue
        example = _example(utterance, labels, cfg.spect)
        if not _fits(example, cfg):
            seen["too short for their transcripts, so that they have no finite loss"].append(recording)
        examples.append(example)
    if found is not None:
        found += faults
    else:
        left_out = problems.require_few([Checked("", "", len(rows), faults)], limit=cfg.data.max_unusable)
        seen |= {remark.what: [str(fault) for fault in faults] for remark in left_out.values()}
    if examples and not any(example.labels for example in examples):
        seen["with empty transcripts, and no other: there is nothing to learn and no error rate"] = [
            str(example.audio) for example in examples
        ]
    characters = ", ".join(f"{character!r} {number}" for character, number in strange.most_common(_CHARACTERS))
    characters += ", ..." if len(strange) > _CHARACTERS else ""
    remarks = tuple(
        Remark(what.format(characters=characters), len(names), tuple(names[:_SHOWN])) for what, names in seen.items()
    )
    if not examples:
        raise NothingLeftError("\n  ".join(["the manifest leaves no utterance to use", *map(str, remarks)]))
    dataset = Dataset(
        examples=tuple(examples),
        remarks=remarks,
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

    Every speed, each at the lowest, the mean and the highest tempo, with the longest silence and with none.
    """
    if cfg is None:
        return [augment.Perturbation()]
    tempos = sorted({cfg.tempo_min, (cfg.tempo_min + cfg.tempo_max) / 2, cfg.tempo_max})
    speeds = sorted(cfg.speeds or (1.0,))
    silences = sorted({round(cfg.silence * sample_rate), 0}, reverse=True)
    return [
        augment.Perturbation(speed=speed, tempo=tempo, before=silence, after=silence)
        for silence in silences
        for speed in speeds
        for tempo in tempos
    ]


def _shapes(examples: list[Example], cfg: Config, *, train: bool) -> tuple[int, ...]:
    if not cfg.data.padded_shapes:
        return ()
    lengths = (
        features.num_frames(how.num_samples(example.num_samples), cfg.spect)
        for how in _perturbations(cfg.augmentation if train else None, cfg.spect.sample_rate)
        for example in examples
    )
    return padding.choose(lengths, count=cfg.data.padded_shapes)


def _require_fit(dataset: Dataset) -> None:
    """Raises if a single utterance exceeds ``data.max_frames``."""
    limit = dataset.data.max_frames
    if not limit:
        return
    frames = [padding.padded(longest, dataset.shapes) for longest in dataset.longest()]
    most, more = max(frames), sum(each > limit for each in frames) - 1
    if most > limit:
        recording = dataset.examples[frames.index(most)].audio
        raise InputError(
            f"{recording}: up to {most} frames with padding, more than data.max_frames={limit} allows a whole batch"
            f"{f', and so have {more} others' if more else ''}. Take --data.max_frames={most} or more"
            f"{', or leave long recordings out, --data.max_duration=SECONDS' if dataset.train else ''}"
        )


def _pruned(duration: float, cfg: DataConfig) -> str | None:
    if duration < cfg.min_duration:
        return f"left out, shorter than data.min_duration={cfg.min_duration:g} s"
    if cfg.max_duration and duration > cfg.max_duration:
        return f"left out, longer than data.max_duration={cfg.max_duration:g} s"
    return None


def _problem(utterance: Utterance, cfg: Config, *, train: bool) -> Problem | None:
    """Why an utterance cannot be used, or None."""
    recording, limit = utterance.name, cfg.data.max_recording_seconds
    if utterance.duration > limit:
        others = ", or leave long recordings out, --data.max_duration=SECONDS" if train else ""
        return Problem(recording, audio.too_long("", utterance.duration, limit).removeprefix(": ") + others)
    if cfg.data.unknown_characters != "error":
        return None
    if unknown := text.unknown_characters(utterance.transcript, cfg.model.labels):
        named, quoted = " ".join(map(repr, sorted(unknown)[:_CHARACTERS])), utterance.transcript[:_QUOTED]
        other_case = any(each.swapcase() in cfg.model.labels for each in unknown)
        why = " (the labels tell upper and lower case apart)" if other_case else ""
        return Problem(recording, f"characters outside the labels: {named} in {quoted!r}{why}", unknown)
    return None


def _encode(utterance: Utterance, cfg: Config) -> tuple[list[int] | None, Counter[str]]:
    """The labels of a transcript (None: leave it out), and the counts of its characters outside the labels."""
    policy = cfg.data.unknown_characters
    encoded = text.encode(utterance.transcript, cfg.model.labels, unknown=policy)
    return encoded, Counter() if policy == "error" else text.unknown_characters(utterance.transcript, cfg.model.labels)


def _example(utterance: Utterance, labels: list[int], spect: SpectConfig) -> Example:
    num_samples = audio_parts.num_samples(utterance.duration, spect.sample_rate)
    # Equals ctc.min_frames, whose tensors would take most of the time to read a large corpus.
    needed = len(labels) + sum(map(operator.eq, labels, labels[1:]))
    return Example(utterance.id, utterance.audio, num_samples, tuple(labels), needed, utterance.start)


def _fits(example: Example, cfg: Config) -> bool:
    frames = features.num_frames(example.num_samples, cfg.spect)
    return output_lengths(frames, time_stride=cfg.model.time_stride) >= example.min_frames
