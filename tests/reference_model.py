"""DeepSpeech2 the usual way, as an nn.Module with packed sequences: an independent truth for tests of the pure one.

Modules are named as in deepspeech.pytorch, so that its state dict is that of the real thing.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ds2f import tree
from ds2f.model import deepspeech2

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class ReferenceModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        hidden, width = cfg.hidden_size, 32 * -(-cfg.num_bins // cfg.frequency_stride)
        convolutions = nn.Sequential(
            nn.Conv2d(1, 32, (41, 11), stride=(cfg.frequency_stride // 2, 2), padding=(20, 5)),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
            nn.Conv2d(32, 32, (21, 11), stride=(2, cfg.time_stride // 2), padding=(10, 5)),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
        )
        self.conv = nn.ModuleDict({"seq_module": convolutions})
        self.rnns = nn.ModuleList()
        for index in range(cfg.hidden_layers):
            layer = {"rnn": CELLS[cfg.rnn_type](hidden if index else width, hidden, bidirectional=cfg.bidirectional)}
            if index:
                layer["batch_norm"] = nn.ModuleDict({"module": nn.BatchNorm1d(hidden)})
            self.rnns.append(nn.ModuleDict(layer))
        self.lookahead = None
        if not cfg.bidirectional:
            conv = nn.Conv1d(hidden, hidden, cfg.lookahead_context, groups=hidden, bias=False)
            self.lookahead = nn.ModuleList([nn.ModuleDict({"conv": conv})])
        head = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, len(cfg.labels), bias=False))
        self.fc = nn.ModuleList([nn.ModuleDict({"module": head})])

    def forward(self, features, lengths):
        """[B, F, T] and [B] to raw logits [B, T', V] and their lengths."""
        x = features[:, None]
        for module in self.conv["seq_module"]:
            x = module(x)
            if isinstance(module, nn.Conv2d):
                lengths = -(-lengths // module.stride[1])
            past_end = torch.arange(x.shape[-1])[None, :] >= lengths[:, None]
            x = x.masked_fill(past_end[:, None, None, :], 0)
        x = x.flatten(1, 2).permute(2, 0, 1)
        for layer in self.rnns:
            if "batch_norm" in layer:
                x = layer["batch_norm"]["module"](x.flatten(0, 1)).view_as(x)
            y, _ = layer["rnn"](pack_padded_sequence(x, lengths, enforce_sorted=False))
            x, _ = pad_packed_sequence(y, total_length=x.shape[0])
            if layer["rnn"].bidirectional:
                x = x.unflatten(-1, (2, -1)).sum(-2)
        if self.lookahead is not None:
            conv = self.lookahead[0]["conv"]
            x = F.hardtanh(conv(F.pad(x.permute(1, 2, 0), (0, conv.kernel_size[0] - 1))), 0, 20).permute(2, 0, 1)
        return self.fc[0]["module"](x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(0, 1), lengths


def lively_model(cfg, *, key=0, dtype=torch.float32):
    """A model as after some training: norms and running statistics are not the initial ones and zeros.

    The statistics are near those of unit noise, so that neither the clips nor the cells saturate.
    """
    generator = torch.Generator().manual_seed(key)

    def shaken(path, leaf):
        factor, offset = (torch.rand(leaf.shape, generator=generator) for _ in range(2))
        moved = leaf * (1 + 0.3 * factor) + (0.2 * offset if "norm" in path else 0)
        return (0.2 * moved if path.endswith("var") else moved).to(dtype)

    params, stats = (
        tree.unflatten_like(part, {path: shaken(path, leaf) for path, leaf in tree.flatten_with_names(part).items()})
        for part in deepspeech2.init(cfg, key=key)
    )
    return params, stats
