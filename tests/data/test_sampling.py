import heapq
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f import rng
from ds2f.config import DataConfig
from ds2f.data import sampling
from ds2f.data.padding import choose, padded
from ds2f.data.sampling import Batches, plan_epoch, plan_sorted, shard, slots

LENGTHS = st.lists(st.integers(1, 2000), max_size=60)
PLANS = settings(max_examples=100, deadline=None)


def _members(batches):
    return sorted(itertools.chain(*batches))


def _lengths(count):
    return [100 + (37 * index) % 500 for index in range(count)]


def _plan(lengths, batch_size, **how):
    return plan_epoch(lengths, slots(lengths, batch_size=batch_size), **how)


@PLANS
@given(
    lengths=LENGTHS, batch_size=st.integers(1, 20), seed=st.integers(0), epoch=st.integers(0), jitter=st.floats(0, 10)
)
def test_an_epoch_holds_every_utterance_once_in_as_few_batches_as_possible(lengths, batch_size, seed, epoch, jitter):
    batches = _plan(lengths, batch_size, seed=seed, epoch=epoch, jitter=jitter)
    assert _members(batches) == list(range(len(lengths)))
    sizes = sorted((len(batch) for batch in batches), reverse=True)
    full, rest = divmod(len(lengths), batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0)


@PLANS
@given(lengths=LENGTHS, batch_size=st.integers(1, 20))
def test_a_sorted_plan_holds_every_utterance_once_from_short_to_long(lengths, batch_size):
    batches = plan_sorted(lengths, slots(lengths, batch_size=batch_size))
    order = list(itertools.chain(*batches))
    assert _members(batches) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_a_plan_is_a_function_of_seed_and_epoch():
    def plan(seed, epoch):
        return _plan(_lengths(200), 8, seed=seed, epoch=epoch, jitter=0.2)

    assert plan(1, 3) == plan(1, 3)
    assert plan(1, 3) != plan(1, 4)
    assert plan(1, 3) != plan(2, 3)


def test_company_changes_from_epoch_to_epoch():
    def pairs(epoch):
        batches = _plan(_lengths(200), 8, seed=1, epoch=epoch, jitter=0.2)
        return {pair for batch in batches for pair in itertools.combinations(sorted(batch), 2)}

    assert len(pairs(0) & pairs(1)) < 0.3 * len(pairs(0))


def test_without_jitter_only_the_order_of_full_batches_changes():
    plans = [_plan(_lengths(200), 8, seed=1, epoch=epoch, jitter=0.0) for epoch in range(2)]
    assert plans[0] != plans[1]
    assert sorted(map(sorted, plans[0])) == sorted(map(sorted, plans[1]))


def test_batches_hold_similar_lengths():
    lengths = _lengths(400)
    batches = _plan(lengths, 10, seed=1, epoch=0, jitter=0.2)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    assert padded < 1.35 * sum(lengths)
    unsorted = sum(10 * max(lengths[start : start + 10]) for start in range(0, 400, 10))
    assert padded < 0.85 * unsorted


def test_the_small_batch_moves_among_the_lengths():
    lengths = list(range(1, 106))
    plans = [_plan(lengths, 10, seed=1, epoch=epoch, jitter=0.0) for epoch in range(40)]
    smallest = [min(lengths[index] for index in next(batch for batch in plan if len(batch) == 5)) for plan in plans]
    assert len(set(smallest)) > 5


def _by_definition(lengths, batch_size, seed, epoch, jitter):
    """The plan without limits, as a sort and a cut."""
    generator = rng.generator(rng.fold_in(seed, "plan", epoch))
    factors = 1 + jitter * (2 * torch.rand(len(lengths), generator=generator, dtype=torch.float64) - 1)
    keys = (torch.tensor(lengths, dtype=torch.float64) * factors).tolist()
    order = sorted(range(len(lengths)), key=lambda index: keys[index])
    full, rest = divmod(len(lengths), batch_size)
    sizes = [batch_size] * full
    if rest:
        sizes.insert(int(torch.randint(full + 1, (), generator=generator)), rest)
    cuts = [0, *itertools.accumulate(sizes)]
    batches = [order[start:end] for start, end in itertools.pairwise(cuts)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


@PLANS
@given(
    lengths=LENGTHS, batch_size=st.integers(1, 20), seed=st.integers(0), epoch=st.integers(0), jitter=st.floats(0, 10)
)
def test_a_plan_without_limits_cuts_the_jittered_order(lengths, batch_size, seed, epoch, jitter):
    how = {"seed": seed, "epoch": epoch, "jitter": jitter}
    assert _plan(lengths, batch_size, **how) == _by_definition(lengths, batch_size, **how)


@st.composite
def _limited(draw):
    """Utterances with the greatest and the drawn length of each, and settings under which every one fits alone."""
    longest = draw(st.lists(st.integers(1, 500), min_size=1, max_size=60))
    shares = draw(st.lists(st.floats(0.3, 1), min_size=len(longest), max_size=len(longest)))
    lengths = [max(1, int(share * frames)) for share, frames in zip(shares, longest, strict=True)]
    shapes = choose(longest, count=draw(st.integers(1, 6))) if draw(st.booleans()) else ()
    max_frames = draw(st.integers(padded(max(longest), shapes), 3000))
    layout = {
        "batch_size": draw(st.integers(1, 20)),
        "devices": draw(st.integers(1, 4)),
        "max_frames": max_frames,
        "shapes": shapes,
    }
    return longest, lengths, layout


@PLANS
@given(drawn=_limited(), seed=st.integers(0), epoch=st.integers(0), jitter=st.floats(0, 10))
def test_no_share_holds_more_frames_than_allowed_whatever_lengths_are_drawn(drawn, seed, epoch, jitter):
    longest, lengths, layout = drawn
    places = slots(longest, **layout)
    sizes = sorted(place.size for place in places)
    for batches in (
        plan_epoch(lengths, places, seed=seed, epoch=epoch, jitter=jitter),
        plan_epoch(longest, places, seed=seed, epoch=epoch, jitter=jitter),
        plan_sorted(lengths, places),
    ):
        assert _members(batches) == list(range(len(lengths)))
        assert sorted(map(len, batches)) == sizes, "every epoch has batches of the same sizes"
        for batch in batches:
            assert len(batch) <= layout["batch_size"]
            # More ranks than devices, or micro-batches of fewer utterances, only make shares smaller.
            for count in range(layout["devices"], layout["devices"] + 3):
                for index in range(count):
                    share = [lengths[member] for member in shard(batch, index=index, count=count)]
                    frames = len(share) * padded(max(share, default=0), layout["shapes"])
                    assert frames <= layout["max_frames"]


def _filled_one_by_one(order, lengths, places):
    """The slots filled one utterance at a time, from a heap of the places in the order that are admitted."""
    waiting = sorted(range(len(order)), key=lambda place: lengths[order[place]], reverse=True)
    admitted: list[int] = []
    batches = []
    for size, longest in places:
        while waiting and lengths[order[waiting[-1]]] <= longest:
            heapq.heappush(admitted, waiting.pop())
        batches.append([int(order[heapq.heappop(admitted)]) for _ in range(size)])
    sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
    members = np.array([*itertools.chain(*batches)], dtype=np.int64)
    return Batches(members, np.concatenate(([0], np.cumsum(sizes))))


@PLANS
@given(drawn=_limited(), seed=st.integers(0), epoch=st.integers(0), jitter=st.floats(0, 10))
def test_slots_filled_together_have_the_batches_of_slots_filled_one_utterance_at_a_time(drawn, seed, epoch, jitter):
    longest, lengths, layout = drawn
    places = slots(longest, **layout)

    def plans():
        drawn_plan = plan_epoch(lengths, places, seed=seed, epoch=epoch, jitter=jitter)
        return [list(drawn_plan), list(plan_sorted(lengths, places))]

    together = plans()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_fill", _filled_one_by_one)
        assert together == plans()


def test_batches_are_a_sequence_of_lists():
    batches = Batches(np.array([5, 2, 9, 4, 7]), np.array([0, 2, 2, 5]))
    assert list(batches) == [[5, 2], [], [9, 4, 7]] == batches[:]
    assert batches[-1] == [9, 4, 7]
    assert batches.reordered(np.array([2, 0, 1])) == [[9, 4, 7], [5, 2], []]
    with pytest.raises(IndexError):
        batches[3]


@PLANS
@given(drawn=_limited())
def test_no_division_into_consecutive_batches_has_fewer(drawn):
    longest, _, layout = drawn
    ordered = sorted(longest)

    def allowed(start, end):
        share = -(-(end - start) // layout["devices"])
        frames = share * padded(ordered[end - 1], layout["shapes"])
        return end - start <= layout["batch_size"] and frames <= layout["max_frames"]

    fewest = [0]
    for end in range(1, len(ordered) + 1):
        fewest.append(1 + min(fewest[start] for start in range(end) if allowed(start, end)))
    assert len(slots(longest, **layout)) == fewest[-1]


def test_long_utterances_are_fewer_together_and_short_ones_as_many_as_allowed():
    lengths = [100] * 50 + [800] * 50
    batches = plan_epoch(lengths, slots(lengths, batch_size=10, max_frames=3200), seed=1, epoch=0, jitter=0.05)
    long = [batch for batch in batches if any(lengths[index] == 800 for index in batch)]
    assert [len(batch) for batch in long] == [4] * 13  # with two short ones to fill the last
    assert sorted(len(batch) for batch in batches if batch not in long) == [8, 10, 10, 10, 10]


def test_company_changes_from_epoch_to_epoch_within_the_limit_too():
    lengths = _lengths(400)
    places = slots(lengths, batch_size=16, max_frames=4800)

    def pairs(epoch):
        batches = plan_epoch(lengths, places, seed=1, epoch=epoch, jitter=0.2)
        return {pair for batch in batches for pair in itertools.combinations(sorted(batch), 2)}

    assert len(pairs(0) & pairs(1)) < 0.3 * len(pairs(0))


def _an4_lengths():
    """As many lengths as AN4's training set has, in frames, straight between its every twentieth."""
    quantiles = [71, 91, 111, 141, 161, 181, 201, 211, 221, 241, 251, 271, 281, 301, 321, 341, 371, 401, 431, 491, 631]
    return np.interp(np.linspace(0, 20, 846), range(21), quantiles).round().astype(int).tolist()


@pytest.mark.parametrize("batch_size", [10, 16, 32])
def test_padding_is_at_most_8_percent_of_the_frames_of_an4(batch_size):
    lengths = _an4_lengths()
    real = total = 0
    for epoch in range(5):
        for batch in _plan(lengths, batch_size, seed=0, epoch=epoch, jitter=DataConfig().bucket_jitter):
            real += sum(lengths[index] for index in batch)
            total += len(batch) * padded(max(lengths[index] for index in batch))
    assert real >= 0.92 * total


@given(size=st.integers(0, 50), count=st.integers(1, 12))
def test_shares_are_a_partition_and_differ_by_one_at_most(size, count):
    shares = [shard(range(size), index=index, count=count) for index in range(count)]
    assert _members(shares) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shares_of_a_sorted_batch_pad_alike(count):
    longest = [shard(range(0, 240), index=index, count=count)[-1] for index in range(count)]
    assert max(longest) - min(longest) < count
