"""Conversion of weights from and to deepspeech.pytorch.

Both checkpoint formats of deepspeech.pytorch are read: V2's package (a dict with ``state_dict`` and ``labels``) and
V3's Lightning checkpoint (``state_dict`` and ``hyper_parameters``). A bare ``state_dict`` works too; its names are the
same in both versions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ds2f import tree
from ds2f.config import DEFAULT_LABELS, ModelConfig
from ds2f.convolutions import convolutions
from ds2f.errors import InputError
from ds2f.model.recurrent import GATES
from ds2f.model.structure import spec
from ds2f.types import Params, Stats

_COUNTER = "num_batches_tracked"
_WRAPPERS = ("module.", "model.")  # prefixes of DataParallel and of Lightning modules
_RNN_PARTS = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0", "b_hh": "bias_hh_l0"}


def from_reference(
    state_dict: Mapping[str, Any], *, labels: Sequence[str] | None = None
) -> tuple[ModelConfig, Params, Stats]:
    """Converts a model of deepspeech.pytorch (V2 or V3), as loaded by ``torch.load``.

    Cell, sizes, layers and direction are inferred from names and shapes. The number of frequency bins is not in the
    weights: the smallest fitting number is taken, 161 and 81 for 20 ms windows at 16 and 8 kHz.

    Args:
      state_dict: names to tensors, or a checkpoint with these under ``state_dict``. Prefixes ``module.`` and ``model.``
        are removed, batch counters ignored.
      labels: output characters; ``None``: the labels of the checkpoint, or the default labels if it has none and its
        output layer has 29 rows.

    Returns:
      ``(cfg, params, stats)``, copies on the CPU: float32, from half precision too (float64 stays float64).

    Raises:
      InputError: if names are missing or unknown, shapes do not fit each other, weights are not finite, or the labels
        are unknown; the message lists all of them.

    >>> from ds2f.model import deepspeech2
    >>> params, stats = deepspeech2.init(ModelConfig(hidden_size=8, hidden_layers=1, rnn_type="gru"), key=0)
    >>> state_dict = to_reference(ModelConfig(hidden_size=8, hidden_layers=1, rnn_type="gru"), params, stats)
    >>> cfg, params, stats = from_reference(state_dict)  # or torch.load("deepspeech_final.pth")
    >>> cfg.rnn_type, cfg.hidden_size, cfg.hidden_layers, cfg.bidirectional, cfg.num_bins
    ('gru', 8, 1, True, 161)
    """
    found = _tensors(state_dict)
    cfg = _infer(found, labels if labels is not None else _labels(state_dict))
    wanted_params, wanted_stats = spec(cfg)
    names = _names(cfg)
    missing, unknown = sorted(set(names.values()) - found.keys()), sorted(found.keys() - set(names.values()))
    if missing or unknown:
        raise InputError(
            f"not a DeepSpeech2 of deepspeech.pytorch V2 or V3: missing {missing}, unknown {unknown}. Older models "
            "must be converted with its own scripts first."
        )

    broken = [name for name in names.values() if not torch.isfinite(found[name]).all()]
    if broken:
        raise InputError(f"NaN or infinite weights in {', '.join(broken[:5])}{' …' if len(broken) > 5 else ''}")

    def collect(wanted: Any, section: str) -> Any:
        leaves = tree.flatten_with_names(wanted)
        wrong = [
            f"{names[section, path]} is {list(found[names[section, path]].shape)} instead of {list(leaf.shape)}"
            for path, leaf in leaves.items()
            if tuple(found[names[section, path]].shape) != leaf.shape
        ]
        if wrong:
            raise InputError(f"weights do not fit each other: {'; '.join(wrong)}")
        copies = {path: _copy(found[names[section, path]]) for path in leaves}
        return tree.unflatten_like(wanted, copies)

    return cfg, collect(wanted_params, "params"), collect(wanted_stats, "stats")


def to_reference(cfg: ModelConfig, params: Params, stats: Stats) -> dict[str, Tensor]:
    """Converts a model to a ``state_dict`` of deepspeech.pytorch (V2 and V3), ready for ``load_state_dict``.

    Args:
      cfg: the ``model`` section.
      params: parameters.
      stats: running statistics.

    Returns:
      Names to copies on the CPU; batch counters are zero.

    Raises:
      InputError: unless ``cfg.time_stride`` is 2 and ``cfg.frequency_stride`` is 4.
    """
    if (cfg.time_stride, cfg.frequency_stride) != (2, 4):
        raise InputError(
            f"model.time_stride={cfg.time_stride}, model.frequency_stride={cfg.frequency_stride}: deepspeech.pytorch "
            "has model.time_stride=2 and model.frequency_stride=4 only; train a model with these"
        )
    leaves = {"params": tree.flatten_with_names(params), "stats": tree.flatten_with_names(stats)}
    state_dict = {name: _copy(leaves[section][path]) for (section, path), name in _names(cfg).items()}
    norms = [name.removesuffix("running_mean") for name in state_dict if name.endswith("running_mean")]
    return state_dict | {f"{name}{_COUNTER}": torch.zeros((), dtype=torch.int64) for name in norms}


def _names(cfg: ModelConfig) -> dict[tuple[str, str], str]:
    """The name in deepspeech.pytorch of every leaf, by ("params" or "stats", path)."""
    names = {}

    def norm(path: str, name: str) -> None:
        for section, ours, theirs in (
            ("params", "scale", "weight"),
            ("params", "bias", "bias"),
            ("stats", "mean", "running_mean"),
            ("stats", "var", "running_var"),
        ):
            names[section, f"{path}/norm/{ours}"] = f"{name}.{theirs}"

    for index in range(len(convolutions(cfg.time_stride, cfg.frequency_stride))):
        for part in ("weight", "bias"):
            names["params", f"conv/layers/{index}/{part}"] = f"conv.seq_module.{3 * index}.{part}"
        norm(f"conv/layers/{index}", f"conv.seq_module.{3 * index + 1}")
    for index in range(cfg.hidden_layers):
        if index:
            norm(f"rnn_{index}", f"rnns.{index}.batch_norm.module")
        for direction, suffix in (("forward", ""), ("backward", "_reverse"))[: 1 + cfg.bidirectional]:
            for ours, theirs in _RNN_PARTS.items():
                names["params", f"rnn_{index}/{direction}/{ours}"] = f"rnns.{index}.rnn.{theirs}{suffix}"
    if not cfg.bidirectional:
        names["params", "output/lookahead/weight"] = "lookahead.0.conv.weight"
    norm("output", "fc.0.module.0")
    names["params", "output/weight"] = "fc.0.module.1.weight"
    return names


def _tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    weights = state_dict.get("state_dict", state_dict)
    found = {}
    for name, value in weights.items():
        while name.startswith(_WRAPPERS):
            name = name.split(".", 1)[1]
        if isinstance(value, Tensor) and not name.endswith(_COUNTER):
            found[name] = value
    return found


def _labels(checkpoint: Mapping[str, Any]) -> Sequence[str] | None:
    own = checkpoint.get("labels")
    return own if own is not None else checkpoint.get("hyper_parameters", {}).get("labels")


def _infer(found: dict[str, Tensor], labels: Sequence[str] | None) -> ModelConfig:
    needed = ("rnns.0.rnn.weight_ih_l0", "rnns.0.rnn.weight_hh_l0", "fc.0.module.1.weight")
    missing = [name for name in needed if name not in found]
    if missing:
        raise InputError(
            f"not a DeepSpeech2 of deepspeech.pytorch V2 or V3: missing {missing} among {len(found)} tensors"
            + (f" such as {sorted(found)[:5]}" if found else "")
        )
    w_ih, w_hh, output = (found[name] for name in needed)
    rows, hidden = w_hh.shape
    cells = [name for name, gates in GATES.items() if gates * hidden == rows]
    if not cells:
        raise InputError(f"rnns.0.rnn.weight_hh_l0 is {list(w_hh.shape)}: neither an LSTM, a GRU nor a tanh RNN")
    if labels is None and output.shape[0] == len(DEFAULT_LABELS):
        labels = DEFAULT_LABELS
    if labels is None or len(labels) != output.shape[0]:
        given = "none are known" if labels is None else f"{len(labels)} were given"
        raise InputError(f"the model scores {output.shape[0]} labels and {given}: pass its labels, in its order")
    layout = convolutions()
    bins = w_ih.shape[1] // layout[-1].channels
    for conv in reversed(layout):
        bins = (bins - 1) * conv.stride[0] + conv.kernel[0] - 2 * conv.padding[0]
    layers = [name.split(".")[1] for name in found if name.startswith("rnns.")]
    cfg = ModelConfig(
        labels=tuple(labels),
        rnn_type=cells[0],
        hidden_size=hidden,
        hidden_layers=1 + max(int(layer) for layer in layers if layer.isdigit()),
        bidirectional="rnns.0.rnn.weight_ih_l0_reverse" in found,
        num_bins=max(bins, 1),
    )
    lookahead = found.get("lookahead.0.conv.weight")
    return cfg if lookahead is None else attrs.evolve(cfg, lookahead_context=lookahead.shape[-1])


def _copy(leaf: Tensor) -> Tensor:
    return leaf.detach().to("cpu", torch.promote_types(leaf.dtype, torch.float32), copy=True)
