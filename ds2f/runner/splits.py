"""A manifest opened for the runner: its utterances, the dataset made of them, and a loader."""

from typing import NamedTuple, Self

from ds2f.config import Config, manifest_path
from ds2f.data import dataset as datasets
from ds2f.data import manifest
from ds2f.data.batches import Loader
from ds2f.data.dataset import Dataset
from ds2f.data.manifest import Utterance


class Split(NamedTuple):
    """One of ``train``, ``val`` and ``test``."""

    name: str
    utterances: list[Utterance]  # all rows of the manifest; a batch's ids are their indices
    dataset: Dataset
    loader: Loader

    @classmethod
    def open(cls, name: str, cfg: Config, *, train: bool = False, pin_memory: bool = False) -> Self:
        """Reads the manifest and starts the loader.

        Args:
          name: ``train``, ``val`` or ``test``.
          cfg: a resolved configuration.
          train: whether to augment, prune and shuffle.
          pin_memory: as for ``Loader``.

        Raises:
          InputError: when the manifest or what it names cannot be used.
        """
        utterances = manifest.read(manifest_path(cfg, name))
        dataset = datasets.build(utterances, cfg, train=train)
        loader = Loader(
            dataset,
            batch_size=cfg.data.batch_size * cfg.nproc_per_node,
            num_workers=cfg.data.num_workers if train else min(1, cfg.data.num_workers),
            pin_memory=pin_memory,
        )
        return cls(name, utterances, dataset, loader)

    @property
    def seconds(self) -> float:
        """Length of the recordings that are used."""
        return sum(self.utterances[example.row].duration for example in self.dataset.examples)

    @property
    def references(self) -> list[str]:
        """What was said, by id."""
        return [utterance.transcript for utterance in self.utterances]
