"""What all ranks must have in common, found out before the first step rather than after a night of training."""

import socket
from collections.abc import Mapping
from typing import Any

import torch

from ds2f import config, tree
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed.collectives import Group

# What may differ: where things lie and who takes part. All else decides the numbers.
_PRIVATE = {"data_path", "run_dir", "device", "nproc_per_node", "nnodes", "max_restarts", "collective_timeout"}
_PRIVATE |= {f"data.{name}" for name in ("train_manifest", "val_manifest", "test_manifest", "labels_path")}
_PRIVATE |= {"data.num_workers", "data.cache_features", "augmentation.noise_dir"}
_PRIVATE_SECTIONS = ("rdzv_", "checkpointing.", "visualization.")


def flags(cfg: Config) -> dict[str, Any]:
    """The settings that decide a run's numbers, by flag."""
    flat: dict[str, Any] = {}
    for name, value in config.to_dict(cfg).items():
        flat |= {f"{name}.{inner}": leaf for inner, leaf in value.items()} if isinstance(value, dict) else {name: value}
    return {
        f"--{name}": value
        for name, value in flat.items()
        if name not in _PRIVATE and not name.startswith(_PRIVATE_SECTIONS)
    }


def require(group: Group, facts: Mapping[str, Any], *, remedy: str) -> None:
    """Compares facts over the ranks.

    Args:
      group: the ranks.
      facts: by name.
      remedy: the last sentence of the message.

    Raises:
      InputError: on every rank, when they differ anywhere; the message names the rank, its host and the facts.
    """
    everywhere = group.gather((socket.gethostname(), dict(facts)))
    host, expected = everywhere[0]
    problems = []
    for rank, (other_host, found) in enumerate(everywhere):
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        problems += [
            f"rank {rank} ({other_host}) has {name}={found.get(name)}, rank 0 ({host}) {expected.get(name)}"
            for name in sorted(different)
        ]
    if problems:
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise InputError(f"the ranks do not agree: {'; '.join(problems[:8])}{more}. {remedy}")


def require_same_params(group: Group, params: tree.Tree) -> None:
    """Compares the bits of the parameters over the ranks, by checksums; any tree of float32 tensors will do.

    Raises:
      RuntimeError: on every rank, when they differ.
    """
    if group.size == 1:
        return
    leaves = tree.flatten_with_paths(params)
    sums = torch.stack([leaf.view(torch.int32).sum() for leaf in leaves.values()]).tolist()
    everywhere = group.gather(sums)
    for rank, others in enumerate(everywhere):
        for path, ours, theirs in zip(leaves, everywhere[0], others, strict=True):
            if ours != theirs:
                raise RuntimeError(
                    f"rank {rank} no longer holds the parameters of rank 0 ({path} differs, perhaps others), although "
                    "both took the same steps: a memory error, or processors that round sums differently. Go on from "
                    "the last checkpoint with --checkpointing.load_auto_checkpoint, on machines of one kind."
                )
