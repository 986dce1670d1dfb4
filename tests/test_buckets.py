"""Sums over ranks in contiguous buffers: what arrives, in what dtype, and when it may be read."""

import pytest
import torch

from ds2f import tree
from ds2f.buckets import Buckets, sum_over_ranks
from ds2f.types import SINGLE

VALUES = {"b": torch.ones(2, 3), "a": [torch.tensor(1.5, dtype=torch.float64), torch.tensor(2)], "c": torch.ones(4)}


class Mirror:
    """Two ranks that always hold the same: a sum doubles, when it is waited for."""

    rank, size = 0, 2

    def __init__(self):
        self.sent, self.waited = [], 0

    def all_reduce_async(self, buffer):
        assert buffer.is_contiguous()
        self.sent.append(buffer)
        owner = self

        class Handle:
            def wait(self):
                buffer.mul_(2)
                owner.waited += 1

        return Handle()


def test_a_tree_travels_in_one_buffer_per_dtype_and_comes_back_in_its_structure():
    mirror = Mirror()
    buckets = Buckets(mirror)
    started = buckets.start(VALUES)
    sizes = {buffer.dtype: buffer.numel() for buffer in mirror.sent}
    assert sizes == {torch.float32: 10, torch.float64: 1, torch.int64: 1}
    assert len(mirror.sent) == 3
    assert mirror.waited == 0
    buckets.wait()
    for path, leaf in tree.flatten_with_paths(started).items():
        expected = tree.flatten_with_paths(VALUES)[path]
        assert leaf.dtype == expected.dtype
        assert torch.equal(leaf, expected * 2), path
    assert torch.equal(VALUES["b"], torch.ones(2, 3))
    buckets.wait()
    assert mirror.waited == 3  # nothing is waited for twice


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_half_type_sends_half_the_bytes_of_float32_and_leaves_the_rest_alone(name, dtype):
    mirror, values = Mirror(), {"w": torch.tensor([1.0, 1 / 3, 40000.0]), "n": torch.tensor([1 / 3]).double()}
    buckets = Buckets(mirror, dtype=name)
    started = buckets.start(values)
    buckets.wait()
    assert {buffer.dtype for buffer in mirror.sent} == {dtype, torch.float64}
    assert started["w"].dtype == torch.float32
    assert torch.equal(started["w"], (values["w"].to(dtype) * 2).float())  # fp16 overflows to infinity
    assert torch.equal(started["n"], values["n"] * 2)


def test_one_rank_keeps_its_tensors():
    assert sum_over_ranks(VALUES, SINGLE) is VALUES
