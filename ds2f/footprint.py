"""The memory of a training, computed from its settings and the size of its largest batch, before anything is allocated.

    need of a device = state + gradients + largest of (activations in training, activations in evaluation, update)
    need of a process on the host = interpreter + loader processes (+ all of the above, on a CPU)

Tensors that live at the same time are counted one by one. Two parts are measured on CPUs: the work space and weights of
oneDNN's LSTM, and the temporaries of the convolutions' backward pass, with the holes that sizes changing from batch to
batch leave in the heap. Layers whose activations are freed when the convolutions are reached count all the same: their
memory is in such holes.
"""

from typing import NamedTuple

import torch

from ds2f import tree
from ds2f.config import Config, ModelConfig, OptimConfig
from ds2f.convolutions import convolutions, output_lengths
from ds2f.model import recurrent, structure
from ds2f.optim.transforms import hidden_matrices
from ds2f.precision import DTYPES, Policy
from ds2f.types import Params

# Measured with torch 2.13 on x86: peaks of resident memory, bytes.
INTERPRETER = 190_000_000  # a rank's own memory with everything imported; mapped libraries are shared
LIBRARIES = 220_000_000  # mapped by all processes of a machine together
WRITER = 100_000_000  # orbax and jax in rank 0, which writes the checkpoints
LOADER = 45_000_000  # a loader process's own memory, forked from its rank

_PREFETCH = 6  # batches in shared memory per loader process: four ahead, one in use, and the one before
_CONVOLUTION_WORK = 40  # bytes per output of the first convolution, temporaries of its backward pass on a CPU
_DEVICE_CONVOLUTION_WORK = 16  # the same with the device's own operators
_LSTM_WORKSPACE = {2: 1.7, 4: 2.3}  # of oneDNN, over the gates, cell states and outputs, by bytes of a number
_SPECTRUM = 1.75  # of the first convolution's output, kept by ``overlap_save``: its transform, in place of a copy
_LEAFWISE = 6  # temporaries of an optimizer's step leaf by leaf, of the largest leaf's size


class Batch(NamedTuple):
    """The size of a batch on one device."""

    utterances: int
    frames: int  # with padding

    @property
    def size(self) -> int:
        """Frames of all utterances together."""
        return self.utterances * self.frames


class Footprint(NamedTuple):
    """The memory of one rank, bytes."""

    state: int  # parameters, optimizer state, averages, gradients and their buffers
    work: int  # activations and temporaries of the largest batch, or of the optimizer
    checkpoint: int  # rank 0's copies of the state, on the host
    loading: int  # batches in shared memory, and the loader processes' own memory, on the host

    @property
    def device(self) -> int:
        """On the rank's device."""
        return self.state + self.work


def estimate(
    cfg: Config, *, train: Batch, evaluation: Batch, policy: Policy, ranks: int, micro_batches: int, cpu: bool
) -> Footprint:
    """The memory of one rank of a training.

    Args:
      cfg: a resolved configuration.
      train: the largest micro-batch of the training.
      evaluation: the largest batch of an evaluation; no utterances where there is none.
      policy: dtypes of the forward pass.
      ranks: ranks of the job; one rank needs no buffers for the all-reduce.
      micro_batches: micro-batches per step.
      cpu: whether the rank computes on a CPU, with oneDNN and fused optimizers.
    """
    params, stats = (tree.map(_empty, part) for part in structure.spec(cfg.model))
    moments = optimizer_state(cfg.optim, params)
    model = _size((params, stats))
    averages = model if cfg.optim.average_decay else 0
    gradients = _gradients(cfg, params, ranks=ranks, micro_batches=micro_batches)
    work = max(
        _training(cfg.model, train, params, policy, cpu=cpu),
        _evaluation(cfg.model, evaluation, policy, cpu=cpu),
        _update(cfg.optim.name, params, moments, cpu=cpu),
    )
    state = model + moments + averages
    features = [max(train.size, 1), *([evaluation.size] if evaluation.size else [])]
    loaders = [cfg.data.num_workers, *([min(1, cfg.data.num_workers)] if evaluation.size else [])]
    batches = 4 * cfg.model.num_bins
    loading = sum(
        number * (LOADER + _PREFETCH * batches * size) for number, size in zip(loaders, features, strict=True)
    )
    return Footprint(state + gradients, work, checkpoint=state, loading=loading + batches * train.size)


def _empty(leaf: structure.Leaf) -> torch.Tensor:
    return torch.empty(leaf.shape, dtype=torch.float32, device="meta")


def _size(values: tree.Tree) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(values))


def optimizer_state(cfg: OptimConfig, params: tree.Tree) -> int:
    """The optimizer's state, bytes, without its scalars.

    ``from_config(cfg, ...).init`` on meta tensors would tell, after half a second of imports.

    Args:
      cfg: the optimizer.
      params: the parameters; only shapes and dtypes are read.
    """
    whole = _size(params)
    if cfg.name == "sgd":
        return whole if cfg.momentum else 0
    if cfg.name == "muon":
        return whole + sum(
            _size(leaf) for path, leaf in tree.flatten_with_paths(params).items() if not hidden_matrices(path, leaf)
        )
    return whole if cfg.name == "novograd" else 2 * whole


def _gradients(cfg: Config, params: tree.Tree, *, ranks: int, micro_batches: int) -> int:
    """Gradients of all stages, the copy of one stage that is added or packed, and what is sent in half precision."""
    whole, largest = _size(params), max(_size(stage) for stage in params.values())
    copies = (largest if micro_batches > 1 else 0) + (largest if ranks > 1 else 0)
    sent = DTYPES[cfg.apex.reduce_dtype].itemsize
    return whole + copies + (whole * sent // 4 if ranks > 1 and sent < 4 else 0)


def _update(name: str, params: Params, moments: int, *, cpu: bool) -> int:
    """Temporaries of the optimizer: none of a fused step; else updates, new values, and the choice between both.

    On a CPU, those of one leaf at a time.
    """
    if not cpu:
        return 4 * _size(params) + 2 * moments
    return 0 if name in ("adamw", "sgd") else _LEAFWISE * max(map(_size, tree.leaves(params)))


def _training(cfg: ModelConfig, batch: Batch, params: tree.Tree, policy: Policy, *, cpu: bool) -> int:
    """What the forward pass keeps for the backward pass, and the temporaries of the backward pass."""
    views = 2 if cfg.consistency else 1
    batch = batch._replace(utterances=views * batch.utterances)
    layers = [_layer(cfg, batch, index, policy, cpu=cpu) for index in range(cfg.hidden_layers)]
    recurrent_stages = [_size(params[f"rnn_{index}"]) for index in range(cfg.hidden_layers)]
    largest = max(recurrent_stages)
    casts = [_size(stage) * policy.compute.itemsize // 4 for stage in params.values()]
    if policy.compute == torch.float32:
        casts = [0]  # the parameters themselves
    if _onednn_lstm(cfg, cpu=cpu):
        casts.append(2 * largest)  # its packed weights, and their gradients before they are unpacked
    compute, frames = policy.compute.itemsize, batch.utterances * _frames(cfg, batch)
    logits = 4 * 4 * frames * len(cfg.labels) * (2 if cfg.intermediate_ctc else 1)
    output = frames * cfg.hidden_size * (2 * 4 + 2 * compute) + logits
    if cfg.remat:
        inputs = frames * cfg.hidden_size * policy.activation.itemsize * cfg.hidden_layers
        return _convolutions(cfg, batch, policy, cpu=cpu) + inputs + max(*layers, output) + max(casts)
    # A layer's gradients take the place of its activations, which are freed before the next layer's gradients come.
    replaced = sum(map(min, layers, recurrent_stages)) - largest
    return _convolutions(cfg, batch, policy, cpu=cpu) + sum(layers) + output + sum(casts) - max(replaced, 0)


def _evaluation(cfg: ModelConfig, batch: Batch, policy: Policy, *, cpu: bool) -> int:
    """The temporaries of a forward pass: nothing is kept, so that the convolutions or one layer are the largest."""
    one = max(_layer(cfg, batch, index, policy, cpu=cpu) for index in range(min(2, cfg.hidden_layers)))
    return max(_convolutions(cfg, batch, policy, cpu=cpu) // 2, one)


def _convolutions(cfg: ModelConfig, batch: Batch, policy: Policy, *, cpu: bool) -> int:
    """Kept by both convolutions and their batch norms, with the temporaries of the backward pass of the first."""
    outputs, bins, frames = [], cfg.num_bins, batch.frames
    for conv in convolutions(cfg.time_stride, cfg.frequency_stride):
        bins, frames = (
            (size + 2 * padding - kernel) // stride + 1
            for size, padding, kernel, stride in zip(
                (bins, frames), conv.padding, conv.kernel, conv.stride, strict=True
            )
        )
        outputs.append(batch.utterances * conv.channels * bins * frames)
    kept = ((policy.compute.itemsize if policy.fused else 4) + policy.activation.itemsize) * sum(outputs)
    if policy.fused and policy.compute == torch.float32:
        kept += round(_SPECTRUM * 4 * outputs[0])
    features = 2 * 4 * cfg.num_bins * batch.size
    return features + kept + (_CONVOLUTION_WORK if cpu else _DEVICE_CONVOLUTION_WORK) * outputs[0]


def _layer(cfg: ModelConfig, batch: Batch, index: int, policy: Policy, *, cpu: bool) -> int:
    """Kept by one recurrent layer: its input, batch norm and dropout, and per direction gates, cell states, outputs."""
    compute, activation = policy.compute.itemsize, policy.activation.itemsize
    frames, hidden = batch.utterances * _frames(cfg, batch), cfg.hidden_size
    directions = 2 if cfg.bidirectional else 1
    cell = recurrent.GATES[cfg.rnn_type] * compute + (4 if cfg.rnn_type == "lstm" else 0) + 2 * compute
    if _onednn_lstm(cfg, cpu=cpu):
        cell = round(_LSTM_WORKSPACE[compute] * cell)
    own = directions * (cell * hidden)
    if index == 0:
        return frames * (own + directions * compute * _first_input(cfg))
    normalised = activation + (activation if policy.fused else 4)  # the result, and the input or its centred copy
    dropout = (1 + activation) * hidden if cfg.dropout else 0
    return frames * (own + directions * compute * hidden + normalised * hidden + dropout)


def _onednn_lstm(cfg: ModelConfig, *, cpu: bool) -> bool:
    return cpu and cfg.rnn_type == "lstm" and cfg.kernel in ("auto", "fused")


def _first_input(cfg: ModelConfig) -> int:
    params, _ = structure.spec(cfg)
    return params["rnn_0"]["forward"]["w_ih"].shape[1]


def _frames(cfg: ModelConfig, batch: Batch) -> int:
    return output_lengths(batch.frames, time_stride=cfg.time_stride)
