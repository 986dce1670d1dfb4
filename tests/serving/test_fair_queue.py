"""The order of pieces: turns of recordings, batches of like length."""

from hypothesis import given
from hypothesis import strategies as st

from ds2f.serving.fair_queue import LEAST_FILLED, FairQueue


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3000)), min_size=1), st.integers(1, 12_000))
def test_every_piece_is_taken_once_in_batches_within_the_limits(pieces, budget):
    queue = FairQueue()
    for number, (owner, frames) in enumerate(pieces):
        queue.add(owner, frames, number, now=0.0)
    taken = []
    while len(queue):
        batch = queue.take(budget)
        frames = [each.frames for each in batch]
        padded = max(frames) * len(frames)
        assert len(batch) == 1 or (padded <= budget and sum(frames) >= LEAST_FILLED * padded)
        taken += [each.content for each in batch]
    assert sorted(taken) == list(range(len(pieces)))


def test_an_hour_does_not_starve_a_second_and_is_not_starved():
    queue = FairQueue()
    for piece in range(10):
        queue.add("hour", 2500, f"hour {piece}", now=0.0)
    order = []
    for number in range(100):
        queue.add(number, 100, f"second {number}", now=0.0)
        while len(queue) > 10 or number == 99:
            (taken,) = queue.take(1)
            order.append(taken.content)
            if taken.content.startswith("second"):
                queue.discard(taken.owner)
            if not len(queue):
                break
    shorts = [index for index, each in enumerate(order) if each.startswith("second")]
    longs = [index for index, each in enumerate(order) if each.startswith("hour")]
    assert len(shorts) == 100
    assert min(longs[1:]) < max(shorts), "the hour goes on while seconds come"
    assert shorts[1] - shorts[0] <= 2, "a second waits for one piece at most"


def test_a_recording_that_is_discarded_leaves_the_queue():
    queue = FairQueue()
    queue.add("gone", 100, "a", now=1.0)
    queue.add("stays", 100, "b", now=2.0)
    queue.discard("gone")
    assert queue.oldest == 2.0
    assert [each.content for each in queue.take(12_000)] == ["b"]
    assert queue.oldest is None
