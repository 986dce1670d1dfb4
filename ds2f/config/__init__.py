"""Configuration: a whole run in one frozen object, made of ``sections`` and of the flags that have none.

Each setting is defined once. Its flag, help, default, validation and its row in launch/README.md come from its field.
Nothing here imports torch, so that ``--help`` is quick.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any

import attrs

from ds2f.config.data_sections import AugmentationConfig, DataConfig, SpectConfig
from ds2f.config.model_sections import BLANK, DEFAULT_LABELS, BeamConfig, ModelConfig
from ds2f.config.settings import build, one_of, setting, within
from ds2f.config.training_sections import (
    ApexConfig,
    CheckpointingConfig,
    OptimConfig,
    TrainingConfig,
    VisualizationConfig,
)
from ds2f.errors import InputError

__all__ = [
    "BLANK",
    "DEFAULT_LABELS",
    "ApexConfig",
    "AugmentationConfig",
    "BeamConfig",
    "CheckpointingConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "SpectConfig",
    "TrainingConfig",
    "VisualizationConfig",
    "from_dict",
    "load",
    "manifest_path",
    "read_labels",
    "resolve",
    "sections",
    "to_dict",
]


@attrs.frozen(kw_only=True)
class Config:
    """A whole run. The sections are flags with the section's name before a dot; the rest are plain flags."""

    data_path: str = setting("data", "Folder with the manifests and recordings that launch.prepare wrote.")
    run_dir: str = setting("", "Folder that the run writes; empty: runs/<name of the flagfile>.")
    device: str = setting("auto", "Where to compute.", one_of("auto", "npu", "cuda", "cpu"))
    nproc_per_node: int = setting(1, "Processes on this machine, one per card.", within(1))
    nnodes: str = setting("1", "Machines: a number, or the fewest and the most, as in 1:4; they may come and go.")
    rdzv_backend: str = setting(
        "",
        "How machines find each other; empty: c10d. etcd-v2 needs python-etcd and a server that speaks etcd's v2 API.",
        one_of("", "c10d", "etcd-v2"),
    )
    rdzv_endpoint: str = setting("", "host:port of one of the machines (c10d), or of the etcd server (etcd-v2).")
    rdzv_id: str = setting("", "Name of the job, the same on all of its machines.")
    rdzv_timeout: float = setting(
        600.0, "Wait this long for machines and processes to find each other, seconds.", within(0, open_low=True)
    )
    max_restarts: int = setting(3, "Start all processes again this often after one of them died.", within(0))
    collective_timeout: float = setting(
        1800.0, "Give up when another process does not answer for this long, seconds.", within(0, open_low=True)
    )
    data: DataConfig = attrs.field(factory=DataConfig)
    model: ModelConfig = attrs.field(factory=ModelConfig)
    spect: SpectConfig = attrs.field(factory=SpectConfig)
    augmentation: AugmentationConfig = attrs.field(factory=AugmentationConfig)
    optim: OptimConfig = attrs.field(factory=OptimConfig)
    apex: ApexConfig = attrs.field(factory=ApexConfig)
    training: TrainingConfig = attrs.field(factory=TrainingConfig)
    checkpointing: CheckpointingConfig = attrs.field(factory=CheckpointingConfig)
    visualization: VisualizationConfig = attrs.field(factory=VisualizationConfig)

    @property
    def node_range(self) -> tuple[int, int]:
        """The fewest and the most machines that the job runs on."""
        fewest, _, most = self.nnodes.partition(":")
        return int(fewest), int(most or fewest)

    def __attrs_post_init__(self) -> None:
        try:
            fewest, most = self.node_range
        except ValueError:
            fewest, most = 0, 0
        if not 1 <= fewest <= most:
            raise InputError(f"nnodes: {self.nnodes!r} is neither a number of machines nor fewest:most, as in 1:4")
        if most > 1 and not (self.rdzv_endpoint and self.rdzv_id):
            raise InputError(
                f"nnodes={self.nnodes}: several machines need --rdzv_endpoint=HOST:PORT, where they meet, and "
                "--rdzv_id=NAME, the same on all of them"
            )


def sections() -> dict[str, type]:
    """The section classes by name, in the order of ``Config``."""
    return {
        field.name: field.type for field in attrs.fields(Config) if field.type is not None and attrs.has(field.type)
    }


def manifest_path(cfg: Config, split: str) -> Path:
    """The manifest of ``train``, ``val`` or ``test``: the flag's, or the corpus's own in ``data_path``."""
    named = getattr(cfg.data, f"{split}_manifest")
    return Path(named) if named else Path(cfg.data_path) / f"{cfg.data.dataset}_{split}_manifest.csv"


def resolve(cfg: Config) -> Config:
    """Derives what two sections share and finds mistakes that no single section can see.

    Raises:
      InputError: a labels file that cannot be read, or settings that contradict each other; the message names the
        flag and the remedy.
    """
    labels = read_labels(cfg.data.labels_path) if cfg.data.labels_path else cfg.model.labels
    optim = cfg.optim
    if optim.schedule == "noam" and optim.learning_rate < 0.01:
        raise InputError(
            f"optim.learning_rate={optim.learning_rate:g} with optim.schedule=noam: Noam's rate is a factor of order 1 "
            "times hidden_size**-0.5 * min(step**-0.5, step * warmup**-1.5). For an absolute rate add "
            "--optim.schedule=exponential (or constant, one_cycle, cosine)."
        )
    if cfg.spect.stride_samples < 1 or cfg.spect.window_samples < 2:
        raise InputError("spect.window_size and spect.window_stride are shorter than a sample at spect.sample_rate")
    masks = cfg.augmentation.frequency_masks or cfg.augmentation.time_masks
    if cfg.model.consistency and not (masks or cfg.model.dropout):
        raise InputError(
            f"model.consistency={cfg.model.consistency:g}: nothing makes the two views of an utterance differ. Add "
            "SpecAugment masks, such as --augmentation.frequency_masks=2 --augmentation.time_masks=2, or dropout."
        )
    return attrs.evolve(cfg, model=attrs.evolve(cfg.model, labels=labels, num_bins=cfg.spect.num_bins))


def read_labels(path: str) -> tuple[str, ...]:
    """Reads a JSON list of one-character labels.

    Raises:
      InputError: when the file cannot be read or does not hold such a list.
    """
    try:
        labels = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f'data.labels_path={path}: {error}. It must be a JSON list such as ["_", "A", " "].'
        ) from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError(f'data.labels_path={path}: not a JSON list of strings such as ["_", "A", " "]')
    for label in labels:
        composed = unicodedata.normalize("NFC", label)
        if composed != label:
            raise InputError(
                f"data.labels_path={path}: {label!a} is spelt {composed!a} in Unicode's normal form, which "
                "transcripts are read in; give each character of that as a label"
            )
    return tuple(labels)


def to_dict(cfg: Config) -> dict[str, Any]:
    """The configuration as nested dicts, lists, strings, numbers and booleans, ready for JSON."""
    return attrs.asdict(cfg)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of ``to_dict``.

    Raises:
      InputError: when a setting is unknown; the message names it.
    """
    known = sections()
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        arguments[name] = build(known[name], value, prefix=f"{name}.") if name in known else value
    return build(Config, arguments)


def load(path: Path) -> Config:
    """Reads a configuration that a run wrote.

    Raises:
      InputError: when the file is damaged, or a newer version's.
      FileNotFoundError: when there is none.
    """
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}. Restore it, or train again.") from error
