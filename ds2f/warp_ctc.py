"""Baidu's warp-ctc, through the binding of SeanNaren/warp-ctc, if it is installed.

The binding's Python wrapper sums the costs and scales the stored gradient in place. This module calls the layer below
it, so that costs and gradients stay per utterance.
"""

from typing import Any

import torch
from torch import Tensor

from ds2f.errors import InputError
from ds2f.extras import import_extra

_MAX_GPU_LABELS = 639  # the largest kernel that warp-ctc compiles holds 2 * labels + 1 <= 128 * 10 states


def costs(values: Tensor, labels: Tensor, label_lengths: Tensor, lengths: Tensor, *, blank: int) -> Tensor:
    """The costs of a batch, in natural log. First derivatives only.

    Args:
      values: [B, T', V], unnormalised; scores on a device other than a GPU are copied to the CPU and back.
      labels: the transcripts behind each other, on the CPU; each has a label and fits into its frames.
      label_lengths: [B] on the CPU, labels.
      lengths: [B] on the CPU, frames.
      blank: index of the blank.

    Returns:
      [B], on the device of ``values``.

    Raises:
      InputError: when the binding is not installed or was built without CUDA, or, on a GPU, for a transcript of more
        than 639 labels.
    """
    return _Costs.apply(values, labels.int(), label_lengths.int(), lengths.int(), blank)[0]


def require(device: torch.device) -> None:
    """Checks that the binding is installed, with kernels for the device.

    Raises:
      InputError: it is not.
    """
    _binding("gpu_ctc" if device.type == "cuda" else "cpu_ctc")


class _Costs(torch.autograd.Function):
    """Costs [B] and their gradients [B, T', V]; the library computes both in one call."""

    @staticmethod
    def forward(
        activations: Tensor, labels: Tensor, label_lengths: Tensor, lengths: Tensor, blank: int
    ) -> tuple[Tensor, Tensor]:
        device = activations.device if activations.is_cuda else torch.device("cpu")
        compute = _binding("gpu_ctc" if activations.is_cuda else "cpu_ctc")
        if activations.is_cuda and int(label_lengths.max()) > _MAX_GPU_LABELS:
            raise InputError(
                f"a transcript has {int(label_lengths.max())} labels and warp-ctc's GPU kernels take at most "
                f"{_MAX_GPU_LABELS}; use --model.ctc=native, or cut or drop the utterance"
            )
        inputs = activations.detach().transpose(0, 1).to(device, torch.float32).contiguous()
        gradients = torch.zeros_like(inputs)
        # The binding drops the library's error status: NaN marks a cost that was never written.
        costs = torch.full((len(activations),), torch.nan, dtype=torch.float32, device="cpu")
        compute(inputs, gradients, labels, label_lengths, lengths, len(activations), costs, blank)
        return costs.to(activations), gradients.transpose(0, 1).to(activations)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        activations, gradients = ctx.saved_tensors
        return _Gradient.apply(activations, gradients, cotangent), None, None, None, None


class _Gradient(torch.autograd.Function):
    """The product of cotangent and stored gradients. Its backward pass refuses second derivatives.

    torch's ``once_differentiable`` checks the cotangent alone: a second derivative with respect to the activations
    would silently be zero.
    """

    @staticmethod
    def forward(activations: Tensor, gradients: Tensor, cotangent: Tensor) -> Tensor:
        return cotangent[:, None, None] * gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps nothing: ``backward`` raises."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        raise RuntimeError("warp-ctc has no second derivatives; use ctc.scan (--model.ctc=scan)")


def _binding(entry: str) -> Any:
    package = import_extra(
        "warpctc_pytorch",
        need="model.ctc=warpctc needs warpctc_pytorch",
        remedy="it is not on PyPI for current Pythons; build it from its repository, SeanNaren/warp-ctc, folder "
        "pytorch_binding, against the torch that is installed here. --model.ctc=native needs nothing and gives the "
        "same losses.",
    )
    if not hasattr(package._warp_ctc, entry):
        raise InputError(
            f"the installed warpctc_pytorch has no {entry}: it was built without CUDA. Build it where CUDA_HOME is "
            "set, or use --model.ctc=native."
        )
    return getattr(package._warp_ctc, entry)
