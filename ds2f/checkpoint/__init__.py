"""Checkpoints of a run, and what evaluation needs of them: ``load_config`` and ``load_model``.

``manager`` writes and reads checkpoints, ``writing`` fills a folder, ``retention`` decides which ones stay,
``integrity`` compares every file with its digest, and ``orbax_io`` stores the arrays. ``safetensors_file`` is a model
in one file, which both take in place of a run's folder.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ds2f import config, tree
from ds2f.checkpoint import safetensors_file
from ds2f.checkpoint.leaves import require_finite
from ds2f.checkpoint.manager import Checkpoints
from ds2f.checkpoint.storage import open_folder
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.types import Params, Stats

__all__ = [
    "Checkpoints",
    "find_safetensors",
    "load_config",
    "load_model",
    "newest_iteration",
    "open_folder",
    "recover_config",
    "require_finite",
]

_LOG = logging.getLogger(__name__)
_OTHER_FORMATS = (".onnx", ".pt2")


def load_config(run_dir: Path | str) -> Config:
    """Reads ``config.json`` of a run, or the configuration in an exported model of the format safetensors.

    Args:
      run_dir: the run's folder; or such a file, or the folder that it was exported to.

    Raises:
      InputError: when ``run_dir`` holds no run, or its configuration is damaged or of a newer version.
    """
    file = find_safetensors(run_dir)
    if file is not None:
        return safetensors_file.about(file).cfg
    path = Path(run_dir) / "config.json"
    try:
        return config.load(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        or_export = _other_format(Path(run_dir))
        raise InputError(
            f"{run_dir} holds no run: {path} is missing. Give the --run_dir of a training{or_export}."
        ) from error


def find_safetensors(run_dir: Path | str) -> Path | None:
    """The exported model that ``run_dir`` names: a file of the format safetensors, or a folder with one and no run."""
    path = Path(run_dir)
    if path.suffix == safetensors_file.SUFFIX and not path.is_dir():
        return path
    file = path / safetensors_file.FILE
    return file if file.is_file() and not (path / "config.json").exists() else None


def _other_format(path: Path) -> str:
    """More of the remedy for an exported model that cannot be read here."""
    names = [path.name] if path.is_file() else [each.name for each in path.iterdir()] if path.is_dir() else []
    if not any(name.endswith(_OTHER_FORMATS) for name in names):
        return ""
    return f", or a model exported with --format=safetensors: {' and '.join(_OTHER_FORMATS)} files hold no parameters"


def recover_config(run_dir: Path | str, *, folder: str = "") -> Config | None:
    """Reads the configuration that the newest checkpoint holds, for a run whose ``config.json`` is lost or damaged.

    Args:
      run_dir: the run's folder.
      folder: folder of the checkpoints; empty: ``run_dir/checkpoints``.

    Returns:
      The configuration; None if no checkpoint holds one that is whole.
    """
    checkpoints = Checkpoints(run_dir, folder=folder, read_only=True)
    try:
        for values in checkpoints.configs():
            with suppress(InputError, TypeError, AttributeError):  # of a newer version
                return config.from_dict(values)
    finally:
        checkpoints.close()
    return None


def newest_iteration(run_dir: Path | str, *, folder: str = "") -> int:
    """The iteration of the newest finished checkpoint, which is not read; -1 if there is none that can be seen.

    Args:
      run_dir: the run's folder.
      folder: folder of the checkpoints; empty: ``run_dir/checkpoints``.
    """
    checkpoints = Checkpoints(run_dir, folder=folder, read_only=True)
    try:
        return checkpoints.newest()
    except OSError:
        return -1
    finally:
        checkpoints.close()


def load_model(
    run_dir: Path | str, *, which: str | int = "best", warn: Callable[[str], None] = _LOG.warning
) -> tuple[Config, Params, Stats]:
    """Loads a run's model for evaluation: the moving averages, if its checkpoints hold them.

    Several checkpoints are averaged leaf by leaf in float64: parameters (Polyak and Juditsky 1992; Izmailov et al.
    2018) and batch-norm statistics, means and variances alike. To first order, the mean model's activations are the
    mean of the models' activations. Their mean is the mean of the means. Their variance is at most the mean of the
    variances, and close to it, since the activations of neighbouring checkpoints correlate. The variance of the
    mixture, which adds the spread of the means, would belong to a model drawn anew for every frame.

    Args:
      run_dir: the run's folder; or an exported model of the format safetensors, as for ``load_config``.
      which: ``"best"`` (by validation error; of a run without a validation set, the last epoch's), ``"last"``, or the
        number of a checkpoint; ``"best:5"`` or ``"last:5"`` for the mean of five. An exported model has none but
        the default.
      warn: called with a message for each damaged checkpoint, and when there are fewer than asked for.

    Returns:
      The run's configuration, parameters and batch-norm statistics, on the CPU.

    Raises:
      InputError: when there is no such run, no such checkpoint that is whole, or its weights are not finite.
    """
    file = find_safetensors(run_dir)
    if file is not None:
        return _load_exported(file, which)
    cfg = load_config(run_dir)
    checkpoints = Checkpoints(run_dir, folder=cfg.checkpointing.folder, read_only=True, warn=warn)
    try:
        iterations = checkpoints.find_all(which)
        if not iterations:
            there = ", ".join(map(str, checkpoints.iterations()))
            why = f"there are {there}" if there else "the run has not finished its first epoch, or could not write one"
            raise InputError(
                f"{run_dir} holds no checkpoint {which!r}: {why}. Its checkpoints belong in {checkpoints.folder}."
            )
        _, _, asked = str(which).partition(":")
        if asked and len(iterations) < int(asked):
            warn(f"{run_dir}: {which} is the mean of {len(iterations)} checkpoints; there are no more")
        params, stats = tree.mean(checkpoints.restore_model(iteration, cfg.model) for iteration in iterations)
    finally:
        checkpoints.close()
    return cfg, params, stats


def _load_exported(file: Path, which: str | int) -> tuple[Config, Params, Stats]:
    if which != "best":
        there = safetensors_file.about(file).which
        raise InputError(
            f"{file} is one exported model, of the checkpoint {there!r}; leave out --which={which}, or give the run's "
            "folder"
        )
    about, params, stats = safetensors_file.read(file)
    return about.cfg, params, stats
