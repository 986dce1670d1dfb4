"""Tests of the totals and messages of several ranks."""

import torch
from threads import in_ranks

from ds2f.runner.progress import Meter, TrainProgress
from ds2f.types import Batch, StepMetrics


def make_batch(ids):
    count = len(ids)
    lengths = torch.full((count,), 50)
    zeros = torch.zeros(count, dtype=torch.int64)
    return Batch(torch.zeros(count, 4, 50), lengths, zeros[:, None], zeros, torch.tensor(ids), torch.ones(()))


def metrics(losses, *, finite=True):
    return StepMetrics(
        torch.tensor(3.0), torch.tensor(losses), torch.tensor(1.0), torch.tensor(finite), torch.tensor(8.0)
    )


def read(per_rank):
    """Each rank counts its steps, ``(ids, losses, finite)``, and reads; returns progress, log and values."""

    def work(group):
        logged, progress = [], TrainProgress()
        meter = Meter(progress, frame_seconds=0.01, name=lambda row: f"u{row}", log=logged.append, gather=group.gather)
        for ids, losses, finite in per_rank[group.rank]:
            counts = group.gather(meter.count([make_batch(ids)], metrics(losses, finite=finite)))
            meter.add(*map(sum, zip(*counts, strict=True)))
        values = meter.read()
        assert meter.read() == {}
        return progress, logged, values

    return in_ranks(len(per_rank), work)


def test_utterances_and_seconds_are_those_of_all_ranks():
    results = read([[([0, 1], [1.0, 2.0], True)], [([2], [1.0], True)], [([], [], True)]])
    for progress, logged, values in results:
        assert (progress.utterances, progress.iteration, logged) == (3, 1, [])
        assert abs(progress.audio_seconds - 1.5) < 1e-9
        assert values["loss"] == 3


def test_a_nan_on_one_rank_is_named_alone_and_an_overflow_names_the_whole_batch():
    nan, inf = float("nan"), float("inf")
    first = [([0, 1], [1.0, 2.0], False), ([2, 3], [1.0, inf], True), ([0, 1], [1.0, 2.0], False)]
    second = [([4, 5], [1.0, nan], False), ([6], [1.0], True), ([4], [1.0], False)]
    for progress, logged, _ in read([first, second]):
        assert progress.skipped_steps == 2
        excluded, poisoned, overflowed = logged
        assert excluded.endswith("transcript: u3")
        assert poisoned.endswith("a loss is NaN: u5")
        assert overflowed.endswith("the losses are finite: u0, u1, u4")
