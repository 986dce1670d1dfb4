"""The leaves of a checkpoint. Names, shapes, dtypes and sizes are compared before anything is allocated."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from etils import epath
from torch import Tensor

from ds2f import tree
from ds2f.checkpoint import integrity, retention
from ds2f.checkpoint.arrays import Form, to_tensor
from ds2f.checkpoint.orbax_io import ArrayStore
from ds2f.errors import InputError

STATE = "state"  # the folder of the leaves in a checkpoint
_SLACK = 64 << 20  # bytes; arrays are stored without compression, small ones beside each other
_REMEDY = "Copy the checkpoint again from the run that wrote it."
_OTHER_WEIGHTS = (
    "Take another checkpoint of the run (--which=NUMBER), or train again with a lower --optim.learning_rate."
)


def read_leaves(
    store: ArrayStore, path: epath.Path, wanted: Mapping[str, Form], *, prefixes: tuple[str, ...]
) -> dict[str, Tensor]:
    """Reads the leaves of a whole checkpoint whose paths have one of the prefixes.

    Args:
      store: reads arrays.
      path: the checkpoint.
      wanted: the forms of these leaves, by path.
      prefixes: of the leaves' paths.

    Raises:
      InputError: when the checkpoint holds other leaves, or they have other forms than it says.
    """
    leaves = retention.about(path)["leaves"]
    dotted = {_dotted(name): name for name in wanted}
    names = {  # in the checkpoint, by the name of today
        name if name in wanted else dotted.get(_dotted(name), name): name
        for name in leaves
        if name.startswith(prefixes)
    }
    stored = {name: Form.read(leaves[before]) for name, before in names.items()}
    wrong = [
        name
        for name in wanted.keys() | stored.keys()
        if name not in wanted or (form := stored.get(name)) is None or not form.fits(wanted[name])
    ]
    if wrong:
        raise InputError(another_model(path, sorted(wrong)))
    filled = {names[name]: form for name, form in stored.items() if form is not None and form.size}
    _require_stored(store, path / STATE, filled)
    arrays = store.restore(path / STATE, filled)
    return {
        name: to_tensor(arrays[names[name]]).to(form.dtype)
        if names[name] in arrays
        else torch.empty(form.shape, dtype=form.dtype)
        for name, form in wanted.items()
    }


def _dotted(name: str) -> str:
    """A name with dots for slashes, which older checkpoints have inside the state of a ``partition``."""
    return name.replace("/", ".")


def another_model(path: epath.Path, wrong: list[str]) -> str:
    """The message about a checkpoint of another model, with the leaves that are wrong."""
    return (
        f"{path} is of another model or optimizer: "
        f"{', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''} missing, unknown or of another shape or type. "
        "Use the flags that the run was started with (flags.txt beside it)."
    )


def _require_stored(store: ArrayStore, folder: epath.Path, forms: Mapping[str, Form]) -> None:
    """Raises unless the folder holds arrays of these forms: what it promises is compared before it is allocated."""
    found = store.shapes(folder)
    for name, form in forms.items():
        if found.get(name) != form.shape:
            raise InputError(
                f"{folder}: {name} is stored as {found.get(name)}; run.json beside it says {form.shape}. {_REMEDY}"
            )
    size, most = sum(form.nbytes for form in forms.values()), _SLACK + 2 * integrity.total_bytes(folder)
    if size > most:
        raise InputError(
            f"{folder}: its arrays would take {size:,} bytes; files of this size hold {most:,} at most. {_REMEDY}"
        )


def require_finite(path: os.PathLike[str] | str, model: Any, *, remedy: str = _OTHER_WEIGHTS) -> None:
    """Raises for NaN and infinite values of parameters or statistics, which turn every recording into an empty text.

    Args:
      path: the checkpoint, for the message.
      model: a tree of tensors.
      remedy: ends the message.

    Raises:
      InputError: the message names the leaves.
    """
    wrong = [
        f"{name} ({int((~torch.isfinite(leaf)).sum()):,} of {leaf.numel():,} values)"
        for name, leaf in tree.flatten_with_names(model).items()
        if leaf.numel() and not torch.isfinite(torch.stack(torch.aminmax(leaf))).all()  # one pass, NaN included
    ]
    if wrong:
        raise InputError(
            f"{path}: NaN or infinite weights in {', '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more leaves' if len(wrong) > 5 else ''}. {remedy}"
        )
