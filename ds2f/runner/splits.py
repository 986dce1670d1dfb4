"""The data splits of a run (train, val, test): manifests read and checked, one rank's loaders, global batch size."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from ds2f import text
from ds2f.config import Config, manifest_path
from ds2f.data import dataset as datasets
from ds2f.data import manifests
from ds2f.data.dataset import Dataset
from ds2f.data.loading import Loader
from ds2f.data.manifests import Utterance
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import Group


class Split(NamedTuple):
    """A data split. With ``data.train_on_val``, the split ``train`` holds the utterances of ``val`` as well."""

    name: str  # train, val or test
    utterances: list[Utterance]  # all rows of the manifest; the ids of a batch are indices into this list
    dataset: Dataset
    references: dict[int, str]  # transcript in the spelling of the labels, by id; only of utterances in the dataset

    @classmethod
    def read(cls, name: str, cfg: Config, *, train: bool = False) -> Self:
        """Reads the manifest, and every transcript and audio header in it. Starts no process and opens no device.

        Args:
          name: ``train``, ``val`` or ``test``.
          cfg: a resolved configuration.
          train: whether to augment, prune and shuffle.

        Raises:
          InputError: when the manifest or a file in it cannot be used.
        """
        utterances = manifests.read(manifest_path(cfg, name), cfg=cfg.data)
        if name == "train" and cfg.data.train_on_val:
            validation = manifests.read(manifest_path(cfg, "val"), cfg=cfg.data)
            utterances += [each._replace(id=row) for row, each in enumerate(validation, start=len(utterances))]
        dataset = datasets.build(utterances, cfg, train=train)
        references = {each.row: text.decode(each.labels, cfg.model.labels) for each in dataset.examples}
        return cls(name, utterances, dataset, references)

    def load(self, cfg: Config, *, rank: int = 0, ranks: int = 1, **loading: Any) -> Loader:
        """Starts the loader of one rank's shards.

        Args:
          cfg: a resolved configuration.
          rank: this rank; its shard of every global batch is loaded.
          ranks: the number of ranks.
          **loading: ``pin_memory`` and ``start_method``, as for ``Loader``.
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

    @property
    def seconds(self) -> float:
        """Total length of the dataset's recordings, seconds."""
        return sum(self.utterances[example.row].duration for example in self.dataset.examples)


def read_all(cfg: Config) -> dict[str, Split]:
    """Reads the splits of a training: ``train``, then the splits that are evaluated. Returns them by name.

    Raises:
      InputError: when a manifest or a file in it cannot be used.
    """
    evaluated = [] if cfg.data.train_on_val else ["val"]
    evaluated += ["test"] if cfg.training.evaluate_test else []
    return {name: Split.read(name, cfg, train=name == "train") for name in ("train", *evaluated)}


def load_all(splits: Mapping[str, Split], cfg: Config, backend: Backend, group: Group) -> dict[str, Loader]:
    """Starts this rank's loader of every split; the device decides on page-locked memory and the start method."""
    return {
        name: split.load(
            cfg, rank=group.rank, ranks=group.size, pin_memory=backend.pin_memory, start_method=backend.start_method
        )
        for name, split in splits.items()
    }


def digests(splits: Mapping[str, Split]) -> dict[str, str]:
    """Digests of each split, for comparing ranks: transcripts and durations in order, and the rows of the dataset."""
    found = {}
    for name, split in splits.items():
        digest = hashlib.sha256()
        for utterance in split.utterances:
            digest.update(f"{utterance.transcript}\0{utterance.duration:.6f}\0".encode())
        rows = ",".join(str(example.row) for example in split.dataset.examples)
        digest.update(rows.encode())
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
