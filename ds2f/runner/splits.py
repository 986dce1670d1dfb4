"""A manifest opened for the runner: its utterances, the dataset made of them, and a loader."""

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


class Split(NamedTuple):
    """One of ``train``, ``val`` and ``test``; with ``data.train_on_val``, ``train`` has the rows of both."""

    name: str
    utterances: list[Utterance]  # all rows of its manifests; a batch's ids are their indices
    dataset: Dataset
    loader: Loader
    references: dict[int, str]  # what was said, in the labels' spelling, by id: of the utterances that are used

    @classmethod
    def open(
        cls, name: str, cfg: Config, *, train: bool = False, rank: int = 0, ranks: int = 1, **loading: Any
    ) -> Self:
        """Reads the manifest and starts the loader of this rank's share.

        Args:
          name: ``train``, ``val`` or ``test``.
          cfg: a resolved configuration.
          train: whether to augment, prune and shuffle.
          rank: which share of every global batch is loaded here.
          ranks: how many ranks there are.
          **loading: ``pin_memory`` and ``start_method``, as for ``Loader``.

        Raises:
          InputError: when the manifest or what it names cannot be used.
        """
        utterances = manifests.read(manifest_path(cfg, name))
        if name == "train" and cfg.data.train_on_val:
            validation = manifests.read(manifest_path(cfg, "val"))
            utterances += [each._replace(id=row) for row, each in enumerate(validation, start=len(utterances))]
        dataset = datasets.build(utterances, cfg, train=train)
        loader = Loader(
            dataset,
            batch_size=global_batch(cfg, ranks) if train else cfg.data.batch_size * ranks,
            num_workers=cfg.data.num_workers if train else min(1, cfg.data.num_workers),
            rank=rank,
            ranks=ranks,
            micro_batches=micro_batches(cfg, ranks) if train else 1,
            **loading,
        )
        references = {each.row: text.decode(each.labels, cfg.model.labels) for each in dataset.examples}
        return cls(name, utterances, dataset, loader, references)

    @property
    def seconds(self) -> float:
        """Length of the recordings that are used."""
        return sum(self.utterances[example.row].duration for example in self.dataset.examples)


def contents(splits: Mapping[str, Split]) -> dict[str, str]:
    """A digest of every manifest's transcripts and durations, in their order, and of what is used of them."""
    found = {}
    for name, split in splits.items():
        digest = hashlib.sha256()
        for utterance in split.utterances:
            digest.update(f"{utterance.transcript}\0{utterance.duration:.6f}\0".encode())
        rows = ",".join(str(example.row) for example in split.dataset.examples)
        digest.update(rows.encode())
        found[f"the {name} utterances"] = f"{len(split.dataset.examples)} ({digest.hexdigest()[:12]})"
    return found


def global_batch(cfg: Config, ranks: int) -> int:
    """Utterances per step of all ranks together."""
    return cfg.data.global_batch_size or cfg.data.batch_size * ranks


def micro_batches(cfg: Config, ranks: int) -> int:
    """How many batches, none above ``data.batch_size``, each rank takes a step, so that the global batch is kept."""
    return -(-global_batch(cfg, ranks) // (cfg.data.batch_size * ranks))
