"""Tensors as the numpy arrays that checkpoints store, and back, bit for bit."""

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # numpy has none of its own


def fits(stored: tuple[str, list[int]], leaf: Tensor) -> bool:
    """Whether a stored leaf (dtype, shape) has the shape of ``leaf``, and a dtype that widens to its dtype."""
    dtype = getattr(torch, stored[0])
    widens = dtype.is_floating_point == leaf.dtype.is_floating_point
    return stored[1] == list(leaf.shape) and (
        dtype == leaf.dtype or (widens and torch.promote_types(dtype, leaf.dtype) == leaf.dtype)
    )


def from_tensor(leaf: Tensor) -> np.ndarray:
    """A numpy array over the tensor's memory."""
    return leaf.view(torch.int16).numpy().view(_BFLOAT16) if leaf.dtype == torch.bfloat16 else leaf.numpy()


def to_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the array's memory, or over a copy if the memory is read-only."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
