"""A walk through every pure room while the process around it is hostile: the same bits come out, nothing else changes.

``walk`` takes one batch from waveforms to error counts and several training steps. It is run once in peace, and again
with other global seeds, with ``torch.distributed`` and absl's flags raising on any touch, and with environment, clock,
default device and default dtype poisoned.
"""

import os
import random
import time
import types
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import torch
from absl import flags
from torch import Tensor

from ds2f import augment, ctc, decode, features, grad, metrics, optim, precision, rng, steps, text, tree
from ds2f.config import AugmentationConfig, Config, ModelConfig, OptimConfig, SpectConfig
from ds2f.model import deepspeech2
from ds2f.types import Batch

SPECT = SpectConfig(sample_rate=4000)
MODEL = ModelConfig(hidden_size=6, hidden_layers=2, num_bins=SPECT.num_bins, labels=tuple("_AB "), dropout=0.2)
AUGMENTATION = AugmentationConfig(
    speeds=(0.9, 1.1), tempo_min=0.9, tempo_max=1.1, silence=0.1, gain_min=-3, gain_max=3,
    noise_dir="n", noise_prob=1.0, reverb_prob=1.0, band_prob=1.0, band_min_high=1500.0, codec_prob=1.0,
    warp_min=0.9, warp_max=1.1,
    frequency_masks=1, frequency_width=4, time_masks=2, time_width=5,
)  # fmt: skip
TRANSCRIPTS = ("AB A", "b", "")


class Material(NamedTuple):
    """What the walk is given; it must come back as it was."""

    waveforms: list[Tensor]
    noise: Tensor
    params: Any
    stats: Any


def material() -> Material:
    draw = rng.generator(3)
    sizes = (2400, 3100, 1900)
    params, stats = deepspeech2.init(MODEL, key=1)
    waveforms = [torch.randn(size, generator=draw) * 0.1 for size in sizes]
    return Material(waveforms, torch.randn(500, generator=draw) * 0.1, params, stats)


def batch_of(given: Material) -> Batch:
    """Augmentation, features and labels: the rooms that the data loader calls."""
    spectrograms = []
    for index, waveform in enumerate(given.waveforms):
        key = rng.fold_in(7, index)
        how = augment.draw(key, AUGMENTATION, sample_rate=16000)
        perturbed = augment.perturb(waveform, how, key, sample_rate=SPECT.sample_rate, noise=given.noise)
        spectrogram = features.log_spectrogram(perturbed, SPECT)
        warped = augment.warp(spectrogram, augment.draw_warp(key, AUGMENTATION), features.frequencies(SPECT))
        spectrograms.append(augment.spec_augment(warped, key, AUGMENTATION))
    ids = [text.encode(transcript, MODEL.labels) or [] for transcript in TRANSCRIPTS]
    lengths = [spectrogram.shape[1] for spectrogram in spectrograms]
    padded = np.zeros((len(ids), SPECT.num_bins, max(lengths)), dtype=np.float32)
    for row, spectrogram in zip(padded, spectrograms, strict=True):
        row[:, : spectrogram.shape[1]] = spectrogram.numpy()
    labels = np.array([row + [0] * (4 - len(row)) for row in ids])
    on_cpu = {"device": "cpu", "dtype": torch.int64}
    return Batch(
        features=torch.from_numpy(padded),
        lengths=torch.tensor(lengths, **on_cpu),
        labels=torch.from_numpy(labels),
        label_lengths=torch.tensor([len(row) for row in ids], **on_cpu),
        ids=torch.arange(len(ids), device="cpu"),
        weight=torch.tensor(1 / 3, device="cpu", dtype=torch.float32),
    )


def walk(given: Material) -> dict[str, Any]:
    """Everything that a pure room computes, by name."""
    found: dict[str, Any] = {"init": deepspeech2.init(MODEL, key=5)}
    batch = found["batch"] = batch_of(given)
    for name, policy in (("fp32", precision.FULL), ("bf16", precision.policy("O2", torch.bfloat16))):
        for train in (True, False):
            found[f"apply {name} {train}"] = deepspeech2.apply(
                given.params, given.stats, batch.features, batch.lengths, cfg=MODEL, train=train, key=9, policy=policy
            )
    logits = found["apply fp32 False"][0]
    for criterion in (ctc.native, ctc.scan):
        found[criterion.__name__] = criterion(logits, batch.labels, batch.label_lengths, blank=MODEL.blank)
    for engine in ("func", "autograd"):
        square = grad.value_and_grad(lambda p: sum((leaf**2).sum() for leaf in tree.leaves(p)), engine=engine)
        found[f"grad {engine}"] = square(given.params)
    hypotheses = decode.greedy(logits, MODEL.labels)
    found["errors"] = [metrics.count_errors(t, h.text) for t, h in zip(TRANSCRIPTS, hypotheses, strict=True)]
    found["hypotheses"] = hypotheses
    for name, kernel in (
        ("adamw", "fused"),
        ("adamw", "scan"),
        ("sgd", "fused"),
        ("lamb", "fused"),
        ("muon", "fused"),
        ("novograd", "fused"),
    ):
        found[f"train {name} {kernel}"] = two_steps(given, batch, name, kernel)
    found["eval"] = steps.eval_step(given.params, given.stats, batch, cfg=MODEL, criterion=ctc.native)
    return found


def two_steps(given: Material, batch: Batch, name: str, kernel: str) -> Any:
    """Two steps with a schedule, dropout and a dynamic loss scale, from given weights."""
    model = attrs.evolve(MODEL, kernel=kernel)
    cfg = Config(
        model=model, optim=OptimConfig(name=name, schedule="cosine", warmup=2.0, learning_rate=0.01, average_decay=0.9)
    )
    schedule = optim.schedules.from_config(cfg.optim, steps_per_epoch=2, total_steps=8, hidden_size=model.hidden_size)
    tx = optim.from_config(cfg.optim, schedule)
    first = steps.init_state(cfg, tx, key=2)._replace(params=given.params, stats=given.stats)
    before = tree.map(torch.clone, first)
    second, metrics_of_first = steps.train_step(first, batch, loss=steps.objective(model), tx=tx, cfg=cfg, key=1)
    third, metrics_of_second = steps.train_step(second, batch, loss=steps.objective(model), tx=tx, cfg=cfg, key=2)
    assert_same(first, before)
    return second, third, metrics_of_first, metrics_of_second


def assert_same(one: Any, other: Any) -> None:
    """Equal structures, types and bits; NaN equals itself."""
    ones, others = tree.flatten_with_paths(one), tree.flatten_with_paths(other)
    assert list(ones) == list(others)
    for path, leaf in ones.items():
        if isinstance(leaf, Tensor):
            assert leaf.dtype == others[path].dtype, path
            assert leaf.device == others[path].device, path
            assert torch.equal(leaf.nan_to_num(nan=12345.0), others[path].nan_to_num(nan=12345.0)), path
        else:
            assert leaf == others[path], path


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a pure room reached for the process around it")


class Refusing(dict[str, str]):
    """A mapping that cannot be read."""

    __getitem__ = __contains__ = __iter__ = get = copy = keys = items = refuse  # type: ignore[assignment]


def poison_global_seeds(_: pytest.MonkeyPatch) -> None:
    torch.manual_seed(987)
    np.random.seed(987)
    random.seed(987)


def poison_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in vars(torch.distributed).items():
        if type(value) is types.FunctionType:
            monkeypatch.setattr(torch.distributed, name, refuse)


def poison_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__getattr__", "__getitem__", "__contains__", "__call__"):
        monkeypatch.setattr(flags.FlagValues, name, refuse)


def poison_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", Refusing())
    monkeypatch.setattr(os, "getenv", refuse)


def poison_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("time", "monotonic", "perf_counter", "time_ns", "localtime"):
        monkeypatch.setattr(time, name, refuse)


POISONS = [poison_global_seeds, poison_distributed, poison_flags, poison_environment, poison_clock]


@pytest.fixture(scope="module")
def in_peace() -> dict[str, Any]:
    return walk(material())


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)
def test_the_core_computes_the_same_in_a_hostile_process(poison: Any, in_peace: dict[str, Any]) -> None:
    given = material()
    with pytest.MonkeyPatch.context() as monkeypatch:
        poison(monkeypatch)
        found = walk(given)
    assert_same(found, in_peace)


def test_the_core_computes_the_same_with_another_default_dtype(in_peace: dict[str, Any]) -> None:
    given = material()
    torch.set_default_dtype(torch.float64)
    try:
        found = walk(given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(found, in_peace)


def test_the_core_computes_the_same_with_another_default_device(in_peace: dict[str, Any]) -> None:
    given = material()
    with torch.device("meta"):  # nothing on it has a value, so one tensor made there spoils the result
        found = walk(given)
    assert_same(found, in_peace)


def test_the_core_leaves_arguments_and_process_as_they_were() -> None:
    given = material()
    arguments = tree.map(torch.clone, given)
    process = dict(os.environ), torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    settings = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    walk(given)
    assert_same(given, arguments)
    assert torch.equal(process[1], torch.get_rng_state())
    assert process[0] == dict(os.environ)
    assert process[2:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert settings == (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())


def test_results_are_detached(in_peace: dict[str, Any]) -> None:
    recorded = {
        path: leaf
        for path, leaf in tree.flatten_with_paths(in_peace).items()
        if isinstance(leaf, Tensor) and leaf.requires_grad
    }
    assert recorded == {}


@pytest.mark.parametrize("poison", POISONS[1:], ids=lambda poison: poison.__name__)
def test_the_poison_works(poison: Any) -> None:
    touches = {
        "poison_distributed": lambda: torch.distributed.is_initialized(),
        "poison_flags": lambda: flags.FLAGS.any_flag,
        "poison_environment": lambda: os.environ.get("HOME"),
        "poison_clock": lambda: time.time(),
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        poison(monkeypatch)
        with pytest.raises(AssertionError, match="reached for the process"):
            touches[poison.__name__]()
