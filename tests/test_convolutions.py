import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.convolutions import output_lengths


@given(st.integers(0, 400), st.sampled_from([2, 4, 6, 8]))
@settings(deadline=None)
def test_output_lengths_are_divided_by_the_stride_and_rounded_up(length, stride):
    assert output_lengths(torch.tensor([length]), time_stride=stride).tolist() == [math.ceil(length / stride)]
    assert output_lengths(length, time_stride=stride) == math.ceil(length / stride)
    assert output_lengths(length) == math.ceil(length / 2)
