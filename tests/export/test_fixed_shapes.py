"""Utterances are divided among fixed shapes, and come back in their order and length."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.export.agreement import Agreement, Twins, compare
from ds2f.export.ascend import Shape
from ds2f.export.fixed_shapes import FixedShapes, batches
from ds2f.export.om_sessions import Outputs
from ds2f.types import Batch

SIZES = st.builds(Shape, st.integers(1, 5), st.integers(1, 60))


@given(st.lists(SIZES, min_size=1, unique=True), st.data())
def test_every_utterance_is_in_one_batch_of_the_shortest_shape_that_holds_it(shapes, data):
    longest = max(shape.frames for shape in shapes)
    lengths = data.draw(st.lists(st.integers(1, longest), max_size=30))
    found = batches(lengths, shapes)
    assert sorted(row for _, rows in found for row in rows) == list(range(len(lengths)))
    for shape, rows in found:
        assert shape in shapes
        assert 1 <= len(rows) <= shape.batch
        for row in rows:
            assert shape.frames == min(each.frames for each in shapes if each.frames >= lengths[row])
    for frames in {shape.frames for shape, _ in found}:
        ours = [(shape.batch, len(rows)) for shape, rows in found if shape.frames == frames]
        smallest = min(shape.batch for shape in shapes if shape.frames == frames)
        assert all(size in (filled, smallest) for size, filled in ours), "only the smallest has empty places"


def batch(*lengths):
    features = torch.full((len(lengths), 3, max(lengths)), torch.nan)  # padding has any value
    for row, length in enumerate(lengths):
        features[row, :, :length] = torch.arange(length) + 100 * row
    zeros = torch.zeros(len(lengths), dtype=torch.int64)
    return Batch(features, torch.tensor(lengths), zeros[:, None], zeros, zeros, torch.ones(()))


def halves(shape, calls, *, scale=1.0):
    """A session that gives every second frame's first two bins, and half the length."""

    def run(features, lengths):
        assert features.shape == (shape.batch, 3, shape.frames)
        assert features.dtype == np.float32
        assert (lengths.dtype, lengths.shape) == (np.int32, (shape.batch,))
        assert np.isfinite(features).all()
        for row, length in zip(features, lengths, strict=True):
            assert not row[:, length:].any()
        calls.append(lengths.tolist())
        return Outputs(scale * features[:, :2, ::2].transpose(0, 2, 1), -(-lengths.astype(np.int64) // 2))

    return run


def engine(*shapes, calls=None, **options):
    calls = [] if calls is None else calls
    return FixedShapes(Config(), {shape: halves(shape, calls, **options) for shape in shapes}, name="om")


def test_logits_are_those_of_each_utterance_in_its_place():
    calls = []
    model = engine(Shape(2, 4), Shape(1, 9), calls=calls)
    logits = model.logits(batch(3, 9, 4, 1))
    assert calls == [[3, 4], [1, 1], [9]], "an empty place repeats the first utterance"
    assert logits.lengths.tolist() == [2, 5, 2, 1]
    assert logits.values.shape == (4, 5, 2)
    for row, length in enumerate(logits.lengths):
        expected = (2.0 * torch.arange(int(length)) + 100 * row)[:, None].expand(-1, 2)
        assert torch.equal(logits.values[row, :length], expected)
    assert (model.computed.runs, model.computed.utterances, model.longest) == (3, 4, 9)


def test_a_longer_utterance_is_refused_and_streams_too():
    model = engine(Shape(1, 4))
    with pytest.raises(InputError, match="an utterance has 5 frames, and the longest shape 4"):
        model.logits(batch(5))
    with pytest.raises(InputError, match="cannot stream"):
        model.begin()


def test_agreement_of_two_engines_counts_every_frame_once():
    twins = Twins(engine(Shape(2, 4), Shape(1, 9)), engine(Shape(2, 4), Shape(1, 9), scale=2.0))
    logits = twins.logits(batch(3, 9))
    assert logits.lengths.tolist() == [2, 5]
    assert (twins.found.utterances, twins.found.frames, twins.found.same) == (2, 7, 7)
    assert twins.found.largest == 108
    assert twins.found.cosine == pytest.approx(1)


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**31))
def test_agreement_is_that_of_numpy_on_all_frames_at_once(frames, labels, seed):
    generator = np.random.default_rng(seed)
    pairs = [generator.normal(size=(2, frames + extra, labels)) for extra in range(2)]
    total = sum((compare(*map(torch.from_numpy, pair)) for pair in pairs), Agreement())
    first, second = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    assert total.frames == len(first)
    assert total.same == (first.argmax(1) == second.argmax(1)).sum()
    assert total.largest == pytest.approx(np.abs(first - second).max())
    assert total.cosine == pytest.approx((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))
    each = [(pair[0] * pair[1]).sum() / np.linalg.norm(pair[0]) / np.linalg.norm(pair[1]) for pair in pairs]
    assert total.lowest == pytest.approx(min(each))


def test_values_that_overflowed_are_counted_and_left_out():
    first = torch.tensor([[-1.0, -2.0], [-3.0, -4.0], [-1.0, -9.0]])
    second = first.clone()
    second[1, 0] = -torch.inf
    second[2, 1] = torch.nan
    found = compare(first, second)
    assert (found.frames, found.broken, found.same, found.largest) == (3, 2, 1, 0.0)
    assert found.cosine == pytest.approx(1)


def test_other_shapes_are_other_models():
    with pytest.raises(InputError, match=r"the graph gives \[2, 3\], the model on the NPU \[3, 3\]"):
        compare(torch.zeros(2, 3), torch.zeros(3, 3))
