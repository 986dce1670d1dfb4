"""Configuration: a frozen object with all settings of a run, most of them in sections.

Each setting is defined once, as a field. Its flag, help text, default, checks and row in launch/README.md come from the
field. Nothing here imports torch, so ``--help`` is quick.
"""

import json
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from ds2f.config.data_sections import AugmentationConfig, DataConfig, SpectConfig
from ds2f.config.model_sections import BLANK, DEFAULT_LABELS, BeamConfig, EndpointConfig, ModelConfig
from ds2f.config.serving_section import ServingConfig
from ds2f.config.settings import build, needs, one_of, setting, within
from ds2f.config.training_sections import (
    ApexConfig,
    CheckpointingConfig,
    OptimConfig,
    TrainingConfig,
    VisualizationConfig,
)
from ds2f.errors import InputError
from ds2f.files import RECORD_BYTES, read_bounded

__all__ = [
    "BLANK",
    "DEFAULT_LABELS",
    "ApexConfig",
    "AugmentationConfig",
    "BeamConfig",
    "CheckpointingConfig",
    "Config",
    "DataConfig",
    "EndpointConfig",
    "ModelConfig",
    "OptimConfig",
    "ServingConfig",
    "SpectConfig",
    "TrainingConfig",
    "VisualizationConfig",
    "from_dict",
    "load",
    "read_labels",
    "resolve",
    "sections",
    "splits_of",
    "to_dict",
]


@attrs.frozen(kw_only=True)
class Config:
    """All settings of a run. The flag of a section's field is ``--section.field``; other fields are plain flags.

    >>> cfg = Config(model=ModelConfig(hidden_size=512), run_dir="runs/small")
    >>> cfg.model.hidden_size, cfg.data.batch_size, cfg.optim.schedule
    (512, 240, 'noam')
    >>> Config(optim=OptimConfig(learning_rate=-1))
    Traceback (most recent call last):
    ds2f.errors.InputError: learning_rate: -1 is out of range, it must be > 0
    """

    data_path: str = setting("data", "Folder of manifests and recordings, written by launch.prepare.")
    run_dir: str = setting(
        "",
        "Folder of the run: a training writes it (empty: runs/<name of the flagfile>), other commands read it, or an "
        "export in its place.",
    )
    device: str = setting("auto", "Type of the devices.", one_of("auto", "npu", "cuda", "cpu"))
    nproc_per_node: int = setting(1, "Processes on this machine, one per device.", within(1))
    nnodes: str = setting(
        "1", "Number of machines, or a range MIN:MAX such as 1:4, within which machines may join and leave the run."
    )
    rdzv_backend: str = setting(
        "",
        "Rendezvous backend, by which machines find each other; empty: c10d. etcd-v2 needs python-etcd and an etcd "
        "server with the v2 API.",
        one_of("", "c10d", "etcd-v2"),
        needs=(needs("several_machines", flags="--nnodes above 1", decided_by=("nnodes",), lenient=True),),
    )
    rdzv_endpoint: str = setting(
        "",
        "HOST:PORT of the rendezvous: one of the machines (c10d), or the etcd server (etcd-v2).",
        needs=(needs("several_machines", flags="--nnodes above 1", decided_by=("nnodes",), lenient=True),),
    )
    rdzv_id: str = setting(
        "",
        "Name of the job, the same on all its machines.",
        needs=(needs("several_machines", flags="--nnodes above 1", decided_by=("nnodes",), lenient=True),),
    )
    rdzv_secret_file: str = setting(
        "",
        "File of the job's secret, with the same content on all its machines and for its user's eyes alone; several "
        "machines need one.",
        needs=(needs("several_machines", flags="--nnodes above 1", decided_by=("nnodes",), lenient=True),),
    )
    rdzv_conf: str = setting(
        "",
        "Access to the etcd server, as KEY=VALUE,KEY=VALUE: protocol=https, ca_cert, ssl_cert and ssl_cert_key for "
        "TLS, username and password_file.",
        needs=(
            needs("several_machines", flags="--nnodes above 1", decided_by=("nnodes",), lenient=True),
            needs("rdzv_backend", "etcd-v2"),
        ),
    )
    rdzv_timeout: float = setting(
        600.0,
        "Timeout of the rendezvous, in which machines and processes find each other, seconds.",
        within(0, open_low=True),
    )
    max_restarts: int = setting(
        3,
        "Maximum number of restarts of all processes after one of them dies.",
        within(0),
        needs=(
            needs(
                "starts_ranks",
                flags="--nproc_per_node or --nnodes above 1",
                decided_by=("nproc_per_node", "nnodes"),
                lenient=True,
            ),
        ),
    )
    restart_window: float = setting(
        3600.0,
        "Seconds after a restart from which on a newer checkpoint gives all restarts back; 0: never.",
        within(0),
        needs=(
            needs(
                "starts_ranks",
                flags="--nproc_per_node or --nnodes above 1",
                decided_by=("nproc_per_node", "nnodes"),
                lenient=True,
            ),
            needs("max_restarts"),
        ),
    )
    collective_timeout: float = setting(
        1800.0, "Timeout of a collective operation, seconds; afterwards the processes stop.", within(0, open_low=True)
    )
    probe_memory: bool = setting(
        True, "Refuse a training that would need more memory than the machine, its cgroup or the device has left."
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
        """``nnodes`` as the smallest and the largest number of machines."""
        fewest, _, most = self.nnodes.partition(":")
        return int(fewest), int(most or fewest)

    @property
    def several_machines(self) -> bool:
        """Whether the run is for several machines, or for a number that may change."""
        return self.node_range != (1, 1)

    @property
    def starts_ranks(self) -> bool:
        """Whether the command starts further processes, one per device."""
        return self.nproc_per_node > 1 or self.several_machines

    def __attrs_post_init__(self) -> None:
        try:
            fewest, most = self.node_range
        except ValueError:
            fewest, most = 0, 0
        if not 1 <= fewest <= most:
            raise InputError(f"nnodes: {self.nnodes!r} is neither a number of machines nor a range MIN:MAX, as in 1:4")
        if most > 1 and not (self.rdzv_endpoint and self.rdzv_id):
            raise InputError(
                f"nnodes={self.nnodes}: several machines need --rdzv_endpoint=HOST:PORT, the rendezvous's address, "
                "and --rdzv_id=NAME, both the same on all machines"
            )
        if most > 1 and not self.rdzv_secret_file:
            raise InputError(
                f"nnodes={self.nnodes}: several machines need --rdzv_secret_file=FILE, with the same secret on all of "
                "them: whoever reaches their ports could otherwise have commands executed. Make one: "
                "python -c 'import secrets; print(secrets.token_hex(32))' > job.secret && chmod 600 job.secret"
            )


def sections() -> dict[str, type]:
    """The section classes by name, in the order of ``Config``."""
    return {
        field.name: field.type for field in attrs.fields(Config) if field.type is not None and attrs.has(field.type)
    }


def splits_of(cfg: Config) -> tuple[str, ...]:
    """The sets whose manifests a training reads: ``train``, then ``val`` and ``test`` where they are used."""
    return ("train", "val", "test") if cfg.training.evaluate_test else ("train", "val")


def resolve(cfg: Config) -> Config:
    """Sets the derived settings (labels, number of bins) and checks settings of different sections together.

    Raises:
      InputError: if the file of labels cannot be read and no run in ``run_dir`` or ``checkpointing.continue_from`` has
        read it, or settings contradict each other; the message names the flag and the remedy.

    >>> resolve(Config(spect=SpectConfig(sample_rate=8000))).model.num_bins
    81
    """
    labels = _labels(cfg)
    optim = cfg.optim
    if optim.schedule == "noam" and optim.learning_rate < 0.01:
        raise InputError(
            f"optim.learning_rate={optim.learning_rate:g} with optim.schedule=noam: this schedule takes a factor of "
            "order 1, for hidden_size**-0.5 * min(step**-0.5, step * warmup**-1.5). For an absolute learning rate add "
            "--optim.schedule=exponential (or constant, one_cycle, cosine)."
        )
    if cfg.spect.stride_samples < 1 or cfg.spect.window_samples < 2:
        raise InputError("spect.window_size and spect.window_stride are shorter than a sample at spect.sample_rate")
    masks = cfg.augmentation.frequency_masks or cfg.augmentation.time_masks
    if cfg.model.consistency and not (masks or cfg.model.dropout):
        raise InputError(
            f"model.consistency={cfg.model.consistency:g}: the two views of an utterance would be the same. Add "
            "SpecAugment masks, such as --augmentation.frequency_masks=2 --augmentation.time_masks=2, or dropout."
        )
    return attrs.evolve(cfg, model=attrs.evolve(cfg.model, labels=labels, num_bins=cfg.spect.num_bins))


def _labels(cfg: Config) -> tuple[str, ...]:
    """The labels of the file; of a file that has gone, the labels that the run, or the run before it, read there."""
    path = cfg.data.labels_path
    if path and not Path(path).exists():
        for run_dir in filter(None, (cfg.run_dir, cfg.checkpointing.continue_from)):
            with suppress(InputError, OSError):
                stored = load(Path(run_dir) / "config.json")
                if stored.data.labels_path == path:
                    return stored.model.labels
    return read_labels(path, limit=cfg.data.max_text_bytes) if path else cfg.model.labels


def read_labels(path: str, *, limit: int = DataConfig().max_text_bytes) -> tuple[str, ...]:
    """Reads a JSON list of labels from a file of at most ``limit`` bytes.

    Raises:
      InputError: if the file cannot be read or is no such list; the message shows an example.
    """
    try:
        labels = json.loads(
            read_bounded(Path(path), limit, remedy="Raise it with --data.max_text_bytes.").decode("utf-8-sig")
        )
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f'data.labels_path={path}: {str(error).rstrip(".")}. It must be a JSON list such as ["_", "A", " "].'
        ) from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError(f'data.labels_path={path}: not a JSON list of strings such as ["_", "A", " "]')
    for label in labels:
        composed = unicodedata.normalize("NFC", label)
        if composed != label:
            raise InputError(
                f"data.labels_path={path}: {label!a} is spelt {composed!a} in Unicode's normal form (NFC), and "
                "transcripts are normalised; make each character of the normal form a label"
            )
    return tuple(labels)


def to_dict(cfg: Config) -> dict[str, Any]:
    """Converts a configuration to nested dicts and plain values, ready for JSON."""
    return attrs.asdict(cfg)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of ``to_dict``.

    Raises:
      InputError: if a setting is unknown or its value is not admissible; the message names it.
    """
    known = sections()
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        arguments[name] = build(known[name], value, prefix=f"{name}.") if name in known else value
    return build(Config, arguments)


def load(path: Path) -> Config:
    """Reads the ``config.json`` of a run.

    Raises:
      InputError: if the file is damaged, or was written by a newer version.
      FileNotFoundError: if there is no such file.
    """
    try:
        return from_dict(json.loads(read_bounded(path, RECORD_BYTES, remedy="").decode()))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}. Restore it, or train again.") from error
