"""ds2f: DeepSpeech2 as pure functions over explicit parameter pytrees, for Ascend NPUs, CUDA GPUs and CPUs.

``import ds2f`` gives the library's modules and its most used functions and classes. Each is imported at its first use
(PEP 562), so ``import ds2f`` itself takes milliseconds and does not load torch.

>>> import ds2f
>>> cfg = ds2f.Config(model=ds2f.ModelConfig(hidden_size=8, hidden_layers=1))
>>> state = ds2f.init_state(cfg, ds2f.optim.adamw(1e-3), key=0)
>>> ds2f.tree.size(state.params) > 0
True
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    *("adapt", "augment", "buckets", "checkpoint", "config", "convert", "ctc", "data", "decode", "errors", "features"),
    *("grad", "inference", "metrics", "model", "objective", "optim", "precision", "rng", "runner", "steps"),
    *("text", "tree", "types"),
)
_HOME = {  # public name -> its module
    "Batch": "types",
    "Config": "config",
    "InputError": "errors",
    "Logits": "types",
    "ModelConfig": "config",
    "Policy": "precision",
    "TrainState": "types",
    "count_errors": "metrics",
    "ctc_loss": "ctc",
    "eval_step": "steps",
    "from_reference": "convert",
    "init_state": "steps",
    "load_config": "checkpoint",
    "load_model": "checkpoint",
    "log_spectrogram": "features",
    "staged_value_and_grad": "grad",
    "to_reference": "convert",
    "train_step": "steps",
    "value_and_grad": "grad",
}

__all__ = ["__version__", *_MODULES, *_HOME]  # noqa: PLE0604  # both are names


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"ds2f.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"ds2f.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ds2f' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
