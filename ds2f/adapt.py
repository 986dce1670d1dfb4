"""Adapts a trained model, the start of fine-tuning: to other labels, and to one direction for streaming."""

from typing import Any

import attrs
import torch

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.errors import InputError
from ds2f.model.structure import init, spec
from ds2f.types import Params

# Settings of the computation, without influence on the parameters.
_TRAINING_ONLY = {
    "consistency", "ctc", "dropout", "kernel", "label_smoothing", "remat", "sync_batch_norm", "variational_dropout"
}  # fmt: skip


def with_labels(source: ModelConfig, params: Params, cfg: ModelConfig, *, key: int) -> tuple[Params, tuple[str, ...]]:
    """Gives a trained model the labels of ``cfg``.

    Only the output layer, and the intermediate output layer if there is one, depend on the labels. Labels of both sets
    keep their rows, in the new order. New labels get the rows of ``deepspeech2.init(cfg, key=key)``.

    Args:
      source: the ``model`` section of the trained model.
      params: parameters of the trained model.
      cfg: the ``model`` section of the new model.
      key: draws the new rows.

    Returns:
      New parameters, which share all other leaves with ``params``, and the labels that are new.

    Raises:
      InputError: if the sections differ in a setting, other than the labels, that the parameters depend on; the message
        names these settings.
    """
    differing = [
        f"model.{name} is {ours!r} and was {getattr(source, name)!r}"
        for name, ours in attrs.asdict(cfg, recurse=False).items()
        if name not in {"labels", *_TRAINING_ONLY} and _shape(name, ours) != _shape(name, getattr(source, name))
    ]
    if differing:
        raise InputError(
            f"only the labels of a trained model can be changed: {'; '.join(differing)}. Take the other model flags "
            "from the flags.txt of the run whose weights these are."
        )
    fresh, _ = init(cfg, key=key)
    for name in ("output", "intermediate") if cfg.intermediate_ctc else ("output",):
        trained = params[name]["weight"]
        drawn = fresh[name]["weight"].to(trained)
        rows = [
            trained[source.labels.index(label)] if label in source.labels else drawn[row]
            for row, label in enumerate(cfg.labels)
        ]
        params = tree.grafted(params, f"{name}/weight", torch.stack(rows))
    return params, tuple(label for label in cfg.labels if label not in source.labels)


def one_directional(source: ModelConfig, params: Params, cfg: ModelConfig) -> tuple[ModelConfig, Params]:
    """Leaves out the backward layers of a bidirectional model, if ``cfg`` has one direction; else returns it as it is.

    The lookahead begins as the identity: each frame counts itself alone. The summed layers were trained on the sum of
    two directions, so the model must be trained on; it learns faster than one that starts from drawn weights.

    Args:
      source: the ``model`` section of the trained model.
      params: parameters of the trained model.
      cfg: the ``model`` section of the new model.

    Returns:
      The ``model`` section of ``source`` with the direction and the lookahead of ``cfg``, and parameters that share
      all leaves but the lookahead's with ``params``.
    """
    if cfg.bidirectional or not source.bidirectional:
        return source, params
    adapted = attrs.evolve(source, bidirectional=False, lookahead_context=cfg.lookahead_context)
    kept = tree.flatten_with_names(params)
    identity = torch.zeros(source.hidden_size, 1, cfg.lookahead_context)
    identity[:, :, 0] = 1.0
    leaves = {path: kept.get(path, identity) for path in tree.flatten_with_names(spec(adapted)[0])}
    return adapted, tree.unflatten_like(spec(adapted)[0], leaves)


def _shape(name: str, value: Any) -> Any:
    """Reduces a setting to the part that the parameters depend on."""
    return value > 0 if name == "intermediate_ctc" else value
