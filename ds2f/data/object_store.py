"""Files in buckets, through fsspec: manifests and tar shards under ``s3://``, ``gs://`` and others.

``Path("s3://bucket/a")`` is ``s3:/bucket/a``. Such paths pass through all that joins, compares and prints paths;
``url`` gives the address back. A row of a manifest reaches a bucket only relative to a manifest that lies there.
"""

import re
from pathlib import Path
from typing import IO, Any

from ds2f.errors import InputError

SCHEMES = ("s3", "gs", "az", "hf", "memory")
_REMOTE = re.compile(rf"({'|'.join(SCHEMES)}):/+(.+)", re.DOTALL)
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}


def is_remote(path: Path | str) -> bool:
    """Whether a path lies in a bucket.

    >>> is_remote(Path("s3://bucket/a.tar")), is_remote("s3/bucket"), is_remote("/s3:/bucket")
    (True, False, False)
    """
    return bool(_REMOTE.fullmatch(str(path)))


def url(path: Path | str) -> str:
    """The address of a path in a bucket.

    >>> url(Path("s3://bucket/a.tar"))
    's3://bucket/a.tar'
    """
    found = _REMOTE.fullmatch(str(path))
    return f"{found[1]}://{found[2]}" if found else str(path)


def absolute(path: Path) -> Path:
    """The absolute path; a path in a bucket is one."""
    return path if is_remote(path) else path.absolute()


def opened(path: Path) -> IO[bytes]:
    """Opens a file for reading.

    Raises:
      InputError: it cannot be reached.
    """
    return _call(path, "open", "rb")


def read(path: Path, start: int, size: int) -> bytes:
    """Reads bytes of a file in one request; fewer at its end.

    Raises:
      InputError: they cannot be reached.
    """
    return _call(path, "cat_file", start=start, end=start + size)


def version(path: Path) -> str:
    """What changes when a file is written again: a digest of its size, time, tag or whatever the store tells.

    Raises:
      InputError: the file cannot be reached.
    """
    return str(_call(path, "ukey"))


def _call(path: Path, method: str, *given: Any, **named: Any) -> Any:
    address = url(path)
    scheme = address.partition("://")[0]
    try:
        import fsspec

        files = fsspec.filesystem(scheme)
        return getattr(files, method)(address, *given, **named)
    except ImportError as error:
        raise InputError(
            f"{address}: the package {_PACKAGES.get(scheme, scheme)} is not installed; pip install 'ds2f[buckets]'"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{address}: no such file; check the address") from error
    except Exception as error:  # stores raise errors of many kinds
        raise InputError(f"{address}: {error}; check the address, the network and the credentials") from error
