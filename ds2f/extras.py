"""Packages that are not always installed: imported when they are needed, with a message where that fails."""

import importlib
from typing import Any

from ds2f.errors import InputError


def import_extra(module: str, *, need: str, remedy: str) -> Any:
    """Imports a module of a package that may be missing, or broken: a broken installation raises any error.

    Args:
      module: its dotted name.
      need: what needs which package, as in ``beam search needs flashlight-text``.
      remedy: ends the message: how to install the package, or do without.

    Raises:
      InputError: the module cannot be imported.

    >>> import_extra("speak", need="speech needs speak", remedy="pip install it")
    Traceback (most recent call last):
    ds2f.errors.InputError: speech needs speak, which cannot be imported (No module named 'speak'): pip install it
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        cause = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{need}, which cannot be imported ({cause}): {remedy}") from error
