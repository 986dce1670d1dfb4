"""Checks that all ranks have the same settings, data and parameters, before hours of training are spent on them."""

import socket
from collections.abc import Mapping
from typing import Any

import torch

from ds2f import config, tree
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed.collectives import Group

# Settings that may differ: paths, devices and processes. All others decide the numbers.
_PRIVATE = {"data_path", "run_dir", "device", "nproc_per_node", "nnodes", "collective_timeout"}
_PRIVATE |= {"max_restarts", "restart_window", "probe_memory"}
_PRIVATE |= {f"data.{name}" for name in ("train_manifest", "val_manifest", "test_manifest", "labels_path")}
_PRIVATE |= {
    "data.num_workers",
    "data.loader_timeout",
    "data.cache_features",
    "data.verify",
    "data.allow_changes",
    "augmentation.noise_dir",
    "augmentation.reverb_dir",
}
_PRIVATE_SECTIONS = ("rdzv_", "checkpointing.", "visualization.")


def flags(cfg: Config) -> dict[str, Any]:
    """The settings that decide a run's numbers, by flag: ``{"--training.seed": 1, ...}``."""
    flat: dict[str, Any] = {}
    for name, value in config.to_dict(cfg).items():
        flat |= {f"{name}.{inner}": leaf for inner, leaf in value.items()} if isinstance(value, dict) else {name: value}
    return {
        f"--{name}": value
        for name, value in flat.items()
        if name not in _PRIVATE and not name.startswith(_PRIVATE_SECTIONS)
    }


def require_same_settings(group: Group, cfg: Config, *, compute: torch.dtype) -> None:
    """Compares the settings that decide numbers over the ranks, and the dtype that the forward pass computes in.

    Raises:
      InputError: on every rank, when they differ anywhere.
    """
    facts = {"the type of fast arithmetic": str(compute), **flags(cfg)}
    require(group, facts, remedy="Give all machines the same flags and the same version.")


def require(group: Group, facts: Mapping[str, Any], *, remedy: str) -> None:
    """Compares facts over the ranks. All ranks call it.

    Args:
      group: the ranks.
      facts: values by name.
      remedy: the last sentence of the message.

    Raises:
      InputError: on every rank, when a fact differs on any; the message names rank, host and values.
    """
    gathered = group.gather((socket.gethostname(), dict(facts)))
    host, expected = gathered[0]
    problems = []
    for rank, (other_host, found) in enumerate(gathered):
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        problems += [
            f"rank {rank} ({other_host}) has {name}={found.get(name)}, rank 0 ({host}) {expected.get(name)}"
            for name in sorted(different)
        ]
    if problems:
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise InputError(f"the ranks do not agree: {'; '.join(problems[:8])}{more}. {remedy}")


def require_same_params(group: Group, params: tree.Tree) -> None:
    """Compares the bits of the parameters over the ranks, by checksums. All ranks call it.

    Args:
      group: the ranks.
      params: any tree of float32 tensors.

    Raises:
      RuntimeError: on every rank, when a checksum differs.
    """
    if group.size == 1:
        return
    leaves = tree.flatten_with_names(params)
    checksums = torch.stack([leaf.view(torch.int32).sum() for leaf in leaves.values()]).tolist()
    gathered = group.gather(checksums)
    for rank, found in enumerate(gathered):
        for path, expected, checksum in zip(leaves, gathered[0], found, strict=True):
            if checksum != expected:
                raise RuntimeError(
                    f"rank {rank} no longer holds the parameters of rank 0 ({path} differs, perhaps others), although "
                    "both took the same steps: a memory error, or processors that round differently. Go on from "
                    "the last checkpoint with --checkpointing.load_auto_checkpoint, on machines of one kind."
                )
