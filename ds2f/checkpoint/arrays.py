"""Tensors as the numpy arrays that checkpoints store, and back, bit for bit."""

import math
from typing import Any

import attrs
import ml_dtypes
import numpy as np
import torch
from torch import Tensor

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # numpy has none of its own


@attrs.frozen
class Form:
    """Shape and dtype of a leaf. A form takes no memory, so forms are compared before leaves are allocated."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def read(cls, stored: Any) -> "Form | None":
        """The form that ``run.json`` holds, the dtype's name and the shape; None when it holds something else."""
        if not (isinstance(stored, list) and len(stored) == 2 and isinstance(stored[0], str)):
            return None
        dtype, shape = getattr(torch, stored[0], None), stored[1]
        sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
        return cls(tuple(shape), dtype) if sizes and isinstance(dtype, torch.dtype) else None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    def fits(self, wanted: "Form") -> bool:
        """Whether a leaf of this form has the shape of ``wanted``, and a dtype that widens to its dtype."""
        widens = self.dtype.is_floating_point == wanted.dtype.is_floating_point
        return self.shape == wanted.shape and (
            self.dtype == wanted.dtype or (widens and torch.promote_types(self.dtype, wanted.dtype) == wanted.dtype)
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
