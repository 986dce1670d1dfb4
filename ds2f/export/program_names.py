"""The names of a model's tensors in a program of ``torch.export``: ``params_rnn_0_forward_w_ih``.

Programs are Python code in the end, so the names are those of Python: letters, digits and underscores.
"""

from collections.abc import Mapping

from torch import Tensor

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.model.structure import spec
from ds2f.types import Params, Stats


def shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter and statistic, by its name in a program.

    >>> shapes(ModelConfig(hidden_size=8))["params_output_weight"]
    (29, 8)
    """
    return {_joined(name): leaf.shape for name, leaf in tree.flatten_with_names(_parts(*spec(cfg))).items()}


def named(params: Params, stats: Stats) -> dict[str, Tensor]:
    """Parameters and statistics by their names in a program."""
    return {_joined(name): leaf for name, leaf in tree.flatten_with_names(_parts(params, stats)).items()}


def trees(cfg: ModelConfig, by_name: Mapping[str, Tensor]) -> tuple[Params, Stats]:
    """Parameters and statistics from their names in a program; the inverse of ``named``."""
    like = _parts(*spec(cfg))
    found = tree.unflatten_like(like, {name: by_name[_joined(name)] for name in tree.flatten_with_names(like)})
    return found["params"], found["stats"]


def _parts(params: Params, stats: Stats) -> dict[str, Params]:
    return {"params": params, "stats": stats}


def _joined(name: str) -> str:
    return name.replace("/", "_")
