"""The sets of a run: their manifests read and checked, and the loaders of one rank's shards of them."""

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
    """One of ``train``, ``val`` and ``test``; with ``data.train_on_val``, ``train`` has the rows of both."""

    name: str
    utterances: list[Utterance]  # all rows of its manifests; a batch's ids are their indices
    dataset: Dataset
    references: dict[int, str]  # transcripts in the spelling of the labels, by id: of the utterances that are used

    @classmethod
    def read(cls, name: str, cfg: Config, *, train: bool = False) -> Self:
        """Reads the manifest and every transcript and header that it names; no process and no device is needed.

        Args:
          name: ``train``, ``val`` or ``test``.
          cfg: a resolved configuration.
          train: whether to augment, prune and shuffle.

        Raises:
          InputError: when the manifest or a file that it names cannot be used.
        """
        utterances = manifests.read(manifest_path(cfg, name))
        if name == "train" and cfg.data.train_on_val:
            validation = manifests.read(manifest_path(cfg, "val"))
            utterances += [each._replace(id=row) for row, each in enumerate(validation, start=len(utterances))]
        dataset = datasets.build(utterances, cfg, train=train)
        references = {each.row: text.decode(each.labels, cfg.model.labels) for each in dataset.examples}
        return cls(name, utterances, dataset, references)

    def load(self, cfg: Config, *, rank: int = 0, ranks: int = 1, **loading: Any) -> Loader:
        """Starts the loader of one rank's shards.

        Args:
          cfg: a resolved configuration.
          rank: the rank whose shard of every global batch is loaded.
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
        """Length of the recordings that are used."""
        return sum(self.utterances[example.row].duration for example in self.dataset.examples)


def read_all(cfg: Config) -> dict[str, Split]:
    """Reads the sets of a training by name: ``train``, then the sets that are evaluated.

    Raises:
      InputError: when a manifest or a file that it names cannot be used.
    """
    evaluated = [] if cfg.data.train_on_val else ["val"]
    evaluated += ["test"] if cfg.training.evaluate_test else []
    return {name: Split.read(name, cfg, train=name == "train") for name in ("train", *evaluated)}


def load_all(splits: Mapping[str, Split], cfg: Config, backend: Backend, group: Group) -> dict[str, Loader]:
    """Starts this rank's loader of every set, with batches as its device likes them."""
    return {
        name: split.load(
            cfg, rank=group.rank, ranks=group.size, pin_memory=backend.pin_memory, start_method=backend.start_method
        )
        for name, split in splits.items()
    }


def digests(splits: Mapping[str, Split]) -> dict[str, str]:
    """A digest of every set's transcripts and durations, in their order, and of the rows that are used."""
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
    """Batches, none above ``data.batch_size``, that each rank takes a step, so that the global batch is kept."""
    return -(-global_batch(cfg, ranks) // batch_of_all_ranks(cfg, ranks))
