import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.data.sampler import plan_epoch, plan_sorted, shard

LENGTHS = st.lists(st.integers(1, 2000), max_size=60)
PLANS = settings(max_examples=100, deadline=None)


def _members(batches):
    return sorted(itertools.chain(*batches))


def _lengths(count):
    return [100 + (37 * index) % 500 for index in range(count)]


@PLANS
@given(
    lengths=LENGTHS, batch_size=st.integers(1, 20), seed=st.integers(0), epoch=st.integers(0), jitter=st.floats(0, 10)
)
def test_an_epoch_holds_every_utterance_once_in_as_few_batches_as_possible(lengths, batch_size, seed, epoch, jitter):
    batches = plan_epoch(lengths, batch_size=batch_size, seed=seed, epoch=epoch, jitter=jitter)
    assert _members(batches) == list(range(len(lengths)))
    sizes = sorted((len(batch) for batch in batches), reverse=True)
    full, rest = divmod(len(lengths), batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0)


@PLANS
@given(lengths=LENGTHS, batch_size=st.integers(1, 20))
def test_a_sorted_plan_holds_every_utterance_once_from_short_to_long(lengths, batch_size):
    batches = plan_sorted(lengths, batch_size=batch_size)
    order = list(itertools.chain(*batches))
    assert _members(batches) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_a_plan_is_a_function_of_seed_and_epoch():
    def plan(seed, epoch):
        return plan_epoch(_lengths(200), batch_size=8, seed=seed, epoch=epoch, jitter=0.2)

    assert plan(1, 3) == plan(1, 3)
    assert plan(1, 3) != plan(1, 4)
    assert plan(1, 3) != plan(2, 3)


def test_company_changes_from_epoch_to_epoch():
    def pairs(epoch):
        batches = plan_epoch(_lengths(200), batch_size=8, seed=1, epoch=epoch, jitter=0.2)
        return {pair for batch in batches for pair in itertools.combinations(sorted(batch), 2)}

    assert len(pairs(0) & pairs(1)) < 0.3 * len(pairs(0))


def test_without_jitter_only_the_order_of_full_batches_changes():
    plans = [plan_epoch(_lengths(200), batch_size=8, seed=1, epoch=epoch, jitter=0.0) for epoch in range(2)]
    assert plans[0] != plans[1]
    assert sorted(map(sorted, plans[0])) == sorted(map(sorted, plans[1]))


def test_batches_hold_similar_lengths():
    lengths = _lengths(400)
    batches = plan_epoch(lengths, batch_size=10, seed=1, epoch=0, jitter=0.2)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    assert padded < 1.35 * sum(lengths)
    unsorted = sum(10 * max(lengths[start : start + 10]) for start in range(0, 400, 10))
    assert padded < 0.85 * unsorted


def test_the_small_batch_moves_among_the_lengths():
    lengths = list(range(1, 106))
    plans = [plan_epoch(lengths, batch_size=10, seed=1, epoch=epoch, jitter=0.0) for epoch in range(40)]
    smallest = [min(lengths[index] for index in next(batch for batch in plan if len(batch) == 5)) for plan in plans]
    assert len(set(smallest)) > 5


@given(size=st.integers(0, 50), count=st.integers(1, 12))
def test_shares_are_a_partition_and_differ_by_one_at_most(size, count):
    shares = [shard(range(size), index=index, count=count) for index in range(count)]
    assert _members(shares) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shares_of_a_sorted_batch_pad_alike(count):
    longest = [shard(range(0, 240), index=index, count=count)[-1] for index in range(count)]
    assert max(longest) - min(longest) < count
