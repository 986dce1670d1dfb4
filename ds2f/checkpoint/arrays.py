"""Tensors as the numpy arrays that checkpoints store, and back, bit for bit."""

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # numpy has none of its own


def fits(stored: tuple[str, list[int]], leaf: Tensor) -> bool:
    """Whether a stored leaf has the shape of ``leaf`` and every value of its type is one of ``leaf``'s type."""
    dtype = getattr(torch, stored[0])
    widens = dtype.is_floating_point == leaf.dtype.is_floating_point
    return stored[1] == list(leaf.shape) and (
        dtype == leaf.dtype or (widens and torch.promote_types(dtype, leaf.dtype) == leaf.dtype)
    )


def from_tensor(leaf: Tensor) -> np.ndarray:
    """The same memory as a numpy array."""
    return leaf.view(torch.int16).numpy().view(_BFLOAT16) if leaf.dtype == torch.bfloat16 else leaf.numpy()


def to_tensor(array: np.ndarray) -> Tensor:
    """The same memory as a tensor, if it may be written to."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
