"""The data splits of a run (train, val, test): manifests read and checked, one rank's loaders, global batch size."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import attrs
import numpy as np

from ds2f import metrics
from ds2f.checkpoint import load_config
from ds2f.config import Config
from ds2f.data import dataset as datasets
from ds2f.data import feature_statistics, problems, split_index
from ds2f.data.columns import Table
from ds2f.data.dataset import Dataset
from ds2f.data.examples import References
from ds2f.data.loading import Loader
from ds2f.data.manifest_paths import manifest_path
from ds2f.data.manifests import Utterance
from ds2f.data.problems import Checked, Remark
from ds2f.errors import InputError
from ds2f.processes import cpu_count
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import Group


class Split(NamedTuple):
    """A data split. With ``data.train_on_val``, the split ``train`` holds the utterances of ``val`` as well."""

    name: str  # train, val or test
    manifest: str  # its path
    utterances: Table[Utterance]  # the usable rows of the manifest; the ids of a batch are indices into it
    dataset: Dataset
    references: Mapping[int, str]  # transcript in the spelling of the labels, by id; only of utterances in the dataset

    @staticmethod
    def read(name: str, cfg: Config, *, train: bool = False) -> "Split":
        """Reads the manifest, and every transcript and audio header in it. Starts no process and opens no device.

        Args:
          name: ``train``, ``val`` or ``test``.
          cfg: a resolved configuration.
          train: whether to augment, prune and shuffle.

        Raises:
          InputError: when the manifest or a file in it cannot be used.
        """
        return read({name: train}, cfg)[name]

    def load(self, cfg: Config, *, rank: int = 0, ranks: int = 1, **loading: Any) -> Loader:
        """Starts the loader of one rank's shards.

        Args:
          cfg: a resolved configuration.
          rank: this rank; its shard of every global batch is loaded.
          ranks: the number of ranks.
          **loading: ``pin_memory``, ``start_method`` and ``max_unreadable``, as for ``Loader``.
        """
        train = self.dataset.train
        return Loader(
            self.dataset,
            batch_size=(global_batch if train else batch_of_all_ranks)(cfg, ranks),
            num_workers=cfg.data.num_workers if train else min(1, cfg.data.num_workers),
            rank=rank,
            ranks=ranks,
            micro_batches=micro_batches(cfg, ranks) if train else 1,
            **loading,
        )

    def with_remark(self, remark: Remark | None) -> "Split":
        """The split with one remark more, before the others."""
        if remark is None:
            return self
        return self._replace(dataset=attrs.evolve(self.dataset, remarks=(remark, *self.dataset.remarks)))

    @property
    def seconds(self) -> float:
        """Total length of the dataset's recordings, seconds."""
        rows = self.dataset.examples.numbers("row")
        return float(self.utterances.numbers("duration")[rows].sum())


def read_all(cfg: Config) -> dict[str, Split]:
    """Reads the splits of a training: ``train``, then the splits that are evaluated. Returns them by name.

    Raises:
      InputError: as ``read``.
    """
    evaluated = [] if cfg.data.train_on_val else ["val"]
    evaluated += ["test"] if cfg.training.evaluate_test else []
    return read({name: name == "train" for name in ("train", *evaluated)}, cfg)


def read(names: Mapping[str, bool], cfg: Config) -> dict[str, Split]:
    """Reads splits, and every transcript and audio header in them. Starts no process and opens no device.

    Args:
      names: ``train``, ``val`` or ``test``, and whether to augment, prune and shuffle the split.
      cfg: a resolved configuration.

    Raises:
      InputError: when a manifest cannot be used, or more than ``data.max_unusable`` rows of one; the message lists the
        problems of all splits.
    """
    splits: dict[str, Split] = {}
    checked: list[Checked] = []
    broken: list[str] = []
    for name, train in names.items():
        try:
            splits[name] = _read(name, cfg, train=train, checked=checked)
        except datasets.NothingLeftError as error:
            if not checked[-1].problems:  # otherwise these are the reasons
                broken.append(f"{name}: {error}")
        except InputError as error:
            broken.append(f"{name}: {error}")
    remarks = problems.require_few(checked, limit=cfg.data.max_unusable, broken=broken)
    return {name: split.with_remark(remarks.get(name)) for name, split in splits.items()}


def _read(name: str, cfg: Config, *, train: bool, checked: list[Checked]) -> Split:
    """Reads one split; ``checked`` takes the problems of single rows, which are left out."""
    sources = [manifest_path(cfg, name)]
    if name == "train" and cfg.data.train_on_val:
        sources.append(manifest_path(cfg, "val"))
    opened = split_index.open_split(sources, cfg, train=train)
    manifest, found = " and ".join(map(str, sources)), list(opened.problems)
    checked.append(Checked(name, manifest, len(opened.utterances) + len(found), found))
    dataset = datasets.assemble(opened.encoded, cfg, train=train, found=found)
    return Split(name, manifest, opened.utterances, dataset, References(dataset.examples, cfg.model.labels))


def load_all(splits: Mapping[str, Split], cfg: Config, backend: Backend, group: Group) -> dict[str, Loader]:
    """Starts this rank's loader of every split; the device decides on page-locked memory and the start method."""
    return {
        name: split.load(
            cfg,
            rank=group.rank,
            ranks=group.size,
            pin_memory=backend.pin_memory,
            start_method=backend.start_method,
            max_unreadable=cfg.data.max_unreadable,
        )
        for name, split in splits.items()
    }


def with_useful_loaders(cfg: Config, backend: Backend, *, local_ranks: int) -> Config:
    """The settings with no more loader processes than help: on a CPU, two for each processor, shared by the ranks.

    There, the ranks compute on the same processors as the loaders, and more loaders take memory and no less time. A
    loader of its own remains to every rank. The data of a step do not depend on the number.

    Args:
      cfg: a resolved configuration.
      backend: this rank's device.
      local_ranks: ranks on this machine.
    """
    most = max(1, 2 * cpu_count() // local_ranks)
    if backend.name != "cpu" or cfg.data.num_workers <= most:
        return cfg
    return attrs.evolve(cfg, data=attrs.evolve(cfg.data, num_workers=most))


def with_statistics(splits: Mapping[str, Split], cfg: Config, group: Group) -> tuple[dict[str, Split], Config]:
    """Completes a training's settings by the statistics of its features, where something needs them.

    These are global normalisation, and unidirectional models: a stream's normalisation starts from them. Rank 0
    measures, unless the run already knows them, or the run whose weights it starts from; all ranks get the same.

    Raises:
      InputError: on rank 0, as ``feature_statistics.measure``.
    """
    spect = cfg.spect
    if not spect.mean and (spect.normalize == "global" or not cfg.model.bidirectional):
        found = None
        if group.rank == 0:
            found = _inherited(cfg) or feature_statistics.measure(splits["train"].dataset)
        mean, deviation = group.gather(found)[0]
        spect = attrs.evolve(spect, mean=tuple(mean), deviation=deviation)
    completed = {
        name: split._replace(dataset=split.dataset.with_statistics(spect.mean, spect.deviation))
        for name, split in splits.items()
    }
    return completed, attrs.evolve(cfg, spect=spect)


def _inherited(cfg: Config) -> tuple[tuple[float, ...], float] | None:
    """Mean and deviation of the features that the weights were trained on; None if they know none of these features."""
    other = cfg.checkpointing.continue_from
    if not other:
        return None
    spect = load_config(other).spect
    alike = spect.full_scale == cfg.spect.full_scale and len(spect.mean) == cfg.spect.num_bins
    return (spect.mean, spect.deviation) if alike else None


def deciding_rate(splits: Mapping[str, Split], cfg: Config) -> metrics.Rate:
    """The error rate that chooses between models: ``training.metric``, or by the validation set's references.

    Without a validation set, the references of the first split decide.
    """
    judged = splits["val"] if "val" in splits else next(iter(splits.values()))
    return metrics.deciding_rate(cfg.training.metric, judged.references.values())


def digests(splits: Mapping[str, Split]) -> dict[str, str]:
    """Digests of each split, for comparing ranks: transcripts and durations in order, and the rows of the dataset."""
    found = {}
    for name, split in splits.items():
        rows, table = split.dataset.examples.numbers("row"), split.utterances
        microseconds = np.rint(1e6 * table.numbers("duration"))
        digest = hashlib.sha256()
        for values in (
            *(
                table.arrays["transcript.bytes"],
                table.lengths("transcript"),
                microseconds,
                table.numbers("start"),
                rows,
            ),
        ):
            digest.update(np.ascontiguousarray(values).data)
        found[f"the {name} utterances"] = f"{len(split.dataset.examples)} ({digest.hexdigest()[:12]})"
    return found


def batch_of_all_ranks(cfg: Config, ranks: int) -> int:
    """Utterances that all ranks together process at once: ``data.batch_size`` on each."""
    return cfg.data.batch_size * ranks


def global_batch(cfg: Config, ranks: int) -> int:
    """Utterances per step of all ranks together."""
    return cfg.data.global_batch_size or batch_of_all_ranks(cfg, ranks)


def micro_batches(cfg: Config, ranks: int) -> int:
    """Micro-batches per step and rank: as few as divide the global batch into at most ``data.batch_size`` each."""
    return -(-global_batch(cfg, ranks) // batch_of_all_ranks(cfg, ranks))
