"""What an exported model says of itself, in the metadata of every format: its configuration, origin and results.

An exported model leaves the machine that trained it, and comes from anywhere. So what is written names no folder of the
machine, and what is read is checked and sets no path and no limit of the machine that reads it.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import attrs
import torch

from ds2f import config, tree
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.files import json_text
from ds2f.text import shown
from ds2f.types import Params, Stats

FORMAT = 1
LIMIT = 4 << 20  # characters of a value; the usual configuration has some thousands
_KEYS = FORMAT_KEY, CONFIG, WEIGHTS, RUN, WHICH, RESULTS = tuple(
    f"ds2f.{name}" for name in ("format", "config", "weights", "run", "which", "results")
)
_REMEDY = "Copy the file again, export the model again with python -m launch.export, or update ds2f."
_PLACES = (  # settings of folders, files and machines, which get their defaults
    *("data_path", "run_dir", "device", "nnodes", "rdzv_backend", "rdzv_endpoint", "rdzv_id", "rdzv_secret_file"),
    *("rdzv_conf", "data.train_manifest", "data.val_manifest", "data.test_manifest", "data.labels_path"),
    *("checkpointing.continue_from", "checkpointing.folder"),
)
_NAMED = ("data.dataset", "augmentation.noise_dir", "augmentation.reverb_dir")  # the last part of each tells the recipe
_LIMITS = ("data.max_recording_seconds", "data.max_text_bytes", "data.max_manifest_bytes")  # at most their defaults
_DIGEST = re.compile("[0-9a-f]{32}")
_WHICH = re.compile(r"(?:best|last)(?::[1-9]\d{0,5})?|\d{1,18}")
_LONGEST_NAME = 255  # characters
_DEEPEST = 16  # levels of results
_DIGITS = 20  # of an integer of 64 bits, with its sign


class About(NamedTuple):
    """What an exported model says of itself."""

    cfg: Config  # of the run, as ``portable`` makes it
    weights: str  # ``weights_digest`` of parameters and statistics
    run: str  # name of the run
    which: str  # checkpoint, as of --which
    results: dict[str, Any]  # the run's results.json; {} without


def weights_digest(params: Params, stats: Stats) -> str:
    """The digest of a model's parameters and statistics, on any device: 32 hexadecimal digits.

    >>> weights_digest({"weight": torch.zeros(2)}, {})
    'b4d49b523c9d7ec9b8a15b0de30e53dd'
    """
    digest = hashlib.sha256()
    for name, leaf in tree.flatten_with_names((params, stats)).items():
        digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)}\0".encode())
        digest.update(leaf.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def require_weights(about: About, params: Params, stats: Stats) -> None:
    """Refuses to write weights that ``about`` is not of.

    Raises:
      ValueError: they have another digest, or a tensor is not float32.
    """
    if weights_digest(params, stats) != about.weights:
        raise ValueError("about.weights is the digest of another model")
    if any(leaf.dtype != torch.float32 for leaf in tree.leaves((params, stats))):
        raise ValueError("parameters and statistics must be float32")


def portable(cfg: Config) -> Config:
    """The configuration without folders, files and addresses of a machine, and with limits of at most the defaults.

    The labels stay, and the names of the corpus and of the folders of noises and rooms: they tell how the model was
    trained.

    >>> from ds2f.config import AugmentationConfig
    >>> cfg = portable(Config(run_dir="/home/ann/runs/a", augmentation=AugmentationConfig(noise_dir="/home/ann/music")))
    >>> cfg.run_dir, cfg.augmentation.noise_dir
    ('', 'music')
    """
    default = Config()
    changes: dict[str, Any] = {name: _get(default, name) for name in _PLACES}
    changes |= {name: _last_part(_get(cfg, name)) for name in _NAMED}
    changes |= {name: min(_get(cfg, name), _get(default, name)) for name in _LIMITS}
    plain = {name: value for name, value in changes.items() if "." not in name}
    for section in {name.partition(".")[0] for name in changes.keys() - plain.keys()}:
        mine = {name.partition(".")[2]: value for name, value in changes.items() if name.startswith(f"{section}.")}
        plain[section] = attrs.evolve(getattr(cfg, section), **mine)
    return attrs.evolve(cfg, **plain)


def without_places(about: About) -> About:
    """The same, without folders, files and addresses of a machine in configuration and results."""
    return about._replace(cfg=portable(about.cfg), results=_without_paths(about.results))


def to_metadata(about: About) -> dict[str, str]:
    """The metadata of an exported model, text by name. Paths are left out of the configuration and of the results."""
    told = without_places(about)
    values = (
        str(FORMAT),
        json_text(config.to_dict(told.cfg)),
        told.weights,
        told.run,
        told.which,
        json_text(told.results),
    )
    return dict(zip(_KEYS, values, strict=True))


def from_metadata(metadata: Mapping[str, str], source: str) -> About:
    """Reads the metadata of an exported model; the inverse of ``to_metadata``.

    Args:
      metadata: text by name; other names are of no concern.
      source: the file, for messages.

    Raises:
      InputError: the file is of another program, of a newer version, or damaged; the message says what to do.
    """
    found = _texts(metadata, source)
    try:
        cfg = config.from_dict(parse_json(found[CONFIG]))
        results = parse_json(found[RESULTS])
    except InputError as error:
        raise _damaged(source, str(error)) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(source, f"its configuration or results cannot be read: {error}") from error
    bins = cfg.model.num_bins, cfg.spect.num_bins
    problems = {
        f"the model has {bins[0]} frequency bins, the spectrogram {bins[1]}": bins[0] != bins[1],
        f"spect.mean is no mean of {bins[1]} bins": not (cfg.spect.mean == () or _is_mean(cfg.spect.mean, bins[1])),
        "labels with control characters": any(shown(label) != label for label in cfg.model.labels),
        f"{RESULTS} is no object": not isinstance(results, dict),
        f"{WEIGHTS} is no digest": not _DIGEST.fullmatch(found[WEIGHTS]),
        f"{WHICH} is no checkpoint": not _WHICH.fullmatch(found[WHICH]),
        f"{RUN} is longer than {_LONGEST_NAME} characters": len(found[RUN]) > _LONGEST_NAME,
    }
    for problem, there in problems.items():
        if there:
            raise _damaged(source, problem)
    return without_places(About(cfg, found[WEIGHTS], found[RUN], found[WHICH], results))


def folder_of(run: Path) -> Path:
    """The folder of what belongs to a model, such as its calibration: a run's folder, or that of an exported file."""
    return run.parent if run.is_file() else run


def _texts(metadata: Mapping[str, str], source: str) -> dict[str, str]:
    """The values by name, none missing and none too long, of a format that is known."""
    written = metadata.get(FORMAT_KEY)
    if written is None:
        raise InputError(
            f"{source}: not a model that ds2f exported ({FORMAT_KEY} is missing). Give a file that "
            "python -m launch.export wrote."
        )
    if not (isinstance(written, str) and written.isascii() and written.isdecimal() and len(written) < 10):
        raise _damaged(source, f"{FORMAT_KEY} is no number")
    if int(written) != FORMAT:
        age, remedy = ("a newer", "Update ds2f, or export") if int(written) > FORMAT else ("an older", "Export")
        raise InputError(
            f"{source}: written by {age} version of ds2f (format {int(written)}; this version reads {FORMAT}). "
            f"{remedy} the model with this version."
        )
    found = {name: metadata.get(name) for name in _KEYS}
    for name, text in found.items():
        if not isinstance(text, str):
            raise _damaged(source, f"{name} is missing")
        if len(text) > LIMIT:
            raise _damaged(source, f"{name} has {len(text):,} characters; the limit is {LIMIT:,}")
    return {name: str(text) for name, text in found.items()}


def _damaged(source: str, problem: str) -> InputError:
    return InputError(f"{source} is damaged: {shown(problem)[:500].rstrip('.?')}. {_REMEDY}")


def parse_json(text: str) -> Any:
    """The value of a JSON text from outside, all of whose numbers are finite and fit into 64 bits.

    Raises:
      ValueError: it is no JSON, or has another number.
      RecursionError: it is nested too deeply.
    """

    def refuse(digits: str) -> int:
        raise ValueError(f"{digits[:20]} is no number, or beyond all limits")

    def integer(digits: str) -> int:
        return found if len(digits) <= _DIGITS and abs(found := int(digits)) < 1 << 63 else refuse(digits)

    def number(digits: str) -> float:
        return found if math.isfinite(found := float(digits)) else refuse(digits)

    return json.loads(text, parse_constant=refuse, parse_float=number, parse_int=integer)


def _is_mean(mean: tuple[Any, ...], bins: int) -> bool:
    return len(mean) == bins and all(isinstance(value, int | float) for value in mean)


def _get(cfg: Config, name: str) -> Any:
    section, _, setting = name.rpartition(".")
    return getattr(getattr(cfg, section) if section else cfg, setting)


def _last_part(path: str) -> str:
    """The last part of a path of any system, or of a URL."""
    return PurePosixPath(PureWindowsPath(path).name).name


def _without_paths(results: Any, *, level: int = 0) -> Any:
    """The results with the last parts of absolute paths, and of all manifests, in place of the paths."""
    if isinstance(results, dict) and level < _DEEPEST:
        return {
            name: {split: _last_part(str(path)) for split, path in value.items()}
            if name == "manifests" and isinstance(value, dict)
            else _without_paths(value, level=level + 1)
            for name, value in results.items()
        }
    if isinstance(results, list | tuple) and level < _DEEPEST:
        return [_without_paths(value, level=level + 1) for value in results]
    if isinstance(results, str) and (results.startswith(("/", "~", "\\")) or PureWindowsPath(results).drive):
        return _last_part(results)
    return None if isinstance(results, dict | list | tuple) else results
