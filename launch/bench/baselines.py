"""The baselines: DeepSpeech2 and its training step with ``nn.Module``, ``backward()`` and ``torch.optim``.

No model, loss, gradient or optimizer of ds2f is used here. One class serves every baseline. Its recurrent layers read
packed sequences, as in deepspeech.pytorch, or padded sequences, with one fused call per direction. The padded variant
has convolutions in channels-last layout.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ds2f.config import Config, ModelConfig
from ds2f.types import Batch

_CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Ends(NamedTuple):
    """The ends of the utterances in a padded batch, computed once for all layers."""

    lengths: Tensor  # [B] on the CPU, frames
    padding: Tensor  # [T, B] bool: true past the end of an utterance
    reversed: Tensor  # [T * B]: rows of (frame, utterance) that reverse every utterance; padding stays at its end


def _ends(lengths: Tensor, frames: int, device: torch.device) -> Ends:
    on_device = lengths.to(device, non_blocking=True)
    frame, utterance = torch.arange(frames, device=device)[:, None], torch.arange(len(lengths), device=device)
    padding = frame >= on_device
    reverse = torch.where(padding, frame, on_device - frame - 1) * len(lengths) + utterance
    return Ends(lengths, padding, reverse.flatten())


class _Layer(nn.Module, ABC):
    """Batch norm, then a recurrent layer; the outputs of both directions are added."""

    def __init__(self, size: int, *, normalise: bool) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(size) if normalise else None

    def forward(self, x: Tensor, ends: Ends) -> Tensor:
        """Maps [T, B, I], sorted from long to short, to [T, B, H]; the output is zero in padding."""
        if self.batch_norm is not None:
            x = self.batch_norm(x.flatten(0, 1)).view_as(x)
        return self.recur(x, ends)

    @abstractmethod
    def recur(self, x: Tensor, ends: Ends) -> Tensor:
        """Maps [T, B, I] to [T, B, H] by the recurrent layer alone."""


class PackedLayer(_Layer):
    """A recurrent layer on packed sequences, both directions in one call."""

    def __init__(self, cfg: ModelConfig, size: int, *, normalise: bool) -> None:
        super().__init__(size, normalise=normalise)
        self.rnn = _CELLS[cfg.rnn_type](size, cfg.hidden_size, bidirectional=cfg.bidirectional)

    def recur(self, x: Tensor, ends: Ends) -> Tensor:
        """Maps [T, B, I] to [T, B, H]."""
        packed, _ = self.rnn(pack_padded_sequence(x, ends.lengths))
        y, _ = pad_packed_sequence(packed, total_length=x.shape[0])
        return y.view(*y.shape[:2], 2, -1).sum(2) if self.rnn.bidirectional else y


class PaddedLayer(_Layer):
    """A recurrent layer on padded sequences, one call per direction; the second call reads reversed utterances."""

    def __init__(self, cfg: ModelConfig, size: int, *, normalise: bool) -> None:
        super().__init__(size, normalise=normalise)
        self.rnn = _CELLS[cfg.rnn_type](size, cfg.hidden_size)
        self.reverse = _CELLS[cfg.rnn_type](size, cfg.hidden_size) if cfg.bidirectional else None

    def recur(self, x: Tensor, ends: Ends) -> Tensor:
        """Maps [T, B, I] to [T, B, H]."""
        y, _ = self.rnn(x)
        if self.reverse is not None:
            from_end, _ = self.reverse(x.flatten(0, 1).index_select(0, ends.reversed).view_as(x))
            y = y + from_end.flatten(0, 1).index_select(0, ends.reversed).view_as(from_end)
        return y.masked_fill(ends.padding[..., None], 0.0)


class Network(nn.Module):
    """DeepSpeech2, from features to logits."""

    def __init__(self, cfg: ModelConfig, *, packed: bool) -> None:
        """Makes the layers, with the initial parameters of torch; ``packed`` selects the recurrent layer."""
        super().__init__()
        hidden, width = cfg.hidden_size, 32 * -(-cfg.num_bins // 4)
        self.conv = nn.Sequential(
            nn.Conv2d(1, 32, (41, 11), stride=(2, 2), padding=(20, 5)),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(32, 32, (21, 11), stride=(2, 1), padding=(10, 5)),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20, inplace=True),
        )
        layer = PackedLayer if packed else PaddedLayer
        self._layout = torch.contiguous_format if packed else torch.channels_last  # faster with oneDNN and cuDNN
        self.conv.to(memory_format=self._layout)  # type: ignore[call-overload]
        sizes = [width] + [hidden] * (cfg.hidden_layers - 1)
        self.rnns = nn.ModuleList(layer(cfg, size, normalise=index > 0) for index, size in enumerate(sizes))
        self.lookahead = None
        if not cfg.bidirectional:
            self.lookahead = nn.Conv1d(hidden, hidden, cfg.lookahead_context, groups=hidden, bias=False)
        self.head = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, len(cfg.labels), bias=False))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Maps features [B, F, T] and lengths [B] on the CPU to logits [T', B, V] and their lengths."""
        lengths = (lengths + 1) // 2
        ends = _ends(lengths, (features.shape[-1] + 1) // 2, features.device)
        x, valid = features[:, None].to(memory_format=self._layout), ~ends.padding.T[:, None, None]
        for module in self.conv:
            x = module(x)
            if isinstance(module, nn.Hardtanh):
                x = x * valid
        x = x.flatten(1, 2).permute(2, 0, 1).contiguous()
        for layer in self.rnns:
            x = layer(x, ends)
        if self.lookahead is not None:
            by_unit = F.pad(x.permute(1, 2, 0), (0, self.lookahead.kernel_size[0] - 1))
            x = F.hardtanh(self.lookahead(by_unit), 0, 20).permute(2, 0, 1)
        return self.head(x.flatten(0, 1)).unflatten(0, x.shape[:2]), lengths


class Baseline:
    """A network and its optimizer."""

    def __init__(
        self, cfg: Config, *, packed: bool, dtype: torch.dtype, fused: bool, device: torch.device | str = "cpu"
    ) -> None:
        """Makes the network, and AdamW with the constant rate ``cfg.optim.learning_rate``.

        Args:
          cfg: gives ``model``, ``optim`` and the initial loss scale of ``apex``.
          packed: packed sequences; otherwise padded sequences.
          dtype: float32, or the half-precision dtype of autocast. With float16, gradients are scaled.
          fused: fused AdamW; otherwise the default of torch.
          device: the device of the network.
        """
        self.network = Network(cfg.model, packed=packed).to(device)
        self._blank, self._max_norm, self._dtype = cfg.model.blank, cfg.optim.max_norm, dtype
        self._device = torch.device(device).type
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=cfg.optim.learning_rate,
            betas=(cfg.optim.beta1, cfg.optim.beta2),
            eps=cfg.optim.eps,
            weight_decay=cfg.optim.weight_decay,
            fused=True if fused else None,
        )
        self._scaler = torch.amp.GradScaler(
            self._device,
            init_scale=cfg.apex.initial_scale,
            growth_interval=cfg.apex.growth_interval,
            enabled=dtype is torch.float16,
        )

    def step(self, batch: Batch) -> Tensor:
        """Takes a training step; returns the mean loss of the batch before the step, natural log."""
        self._optimizer.zero_grad()
        with torch.autocast(self._device, self._dtype, enabled=self._dtype is not torch.float32):
            logits, lengths = self.network(batch.features, batch.lengths)
        log_probs = logits.float().log_softmax(-1)
        losses = F.ctc_loss(
            *(log_probs, batch.labels, lengths, batch.label_lengths),
            blank=self._blank,
            reduction="sum",
            zero_infinity=True,
        )
        loss = losses / len(batch.ids)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        clip_grad_norm_(self.network.parameters(), self._max_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()

    def load(self, weights: dict[str, Tensor]) -> None:
        """Loads parameters and batch-norm statistics; names are those of deepspeech.pytorch."""
        own = self.network.state_dict()
        self.network.load_state_dict(
            {name: weights[_reference_name(name)] if own[name].is_floating_point() else own[name] for name in own}
        )

    def weights(self) -> dict[str, Tensor]:
        """Parameters and batch-norm statistics; names are those of deepspeech.pytorch."""
        return {_reference_name(name): value.detach() for name, value in self.network.state_dict().items()}


_NAMES = {"conv": "conv.seq_module", "rnns": "rnns", "lookahead": "lookahead.0.conv", "head": "fc.0.module"}


def _reference_name(name: str) -> str:
    """The name in deepspeech.pytorch of a parameter or statistic of ``Network``."""
    part, _, rest = name.partition(".")
    rest = rest.replace("batch_norm.", "batch_norm.module.")
    if "reverse." in rest:
        rest = f"{rest.replace('reverse.', 'rnn.')}_reverse"
    return f"{_NAMES[part]}.{rest}"
