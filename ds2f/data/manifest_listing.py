"""The rows of a manifest in any form: read by its kind, before any file that it names is opened."""

import gzip
import io
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from ds2f.data import object_store, shards
from ds2f.data.manifest_folders import read_folder
from ds2f.data.manifest_json import LINES, read_json
from ds2f.data.manifest_parquet import MAGIC, read_parquet
from ds2f.data.manifest_rows import Listing, Row
from ds2f.data.manifest_tables import read_table
from ds2f.errors import InputError
from ds2f.files import read_bounded
from ds2f.nearest import did_you_mean, did_you_mean_file, nearest

_BLOCK = 1 << 20  # bytes that are unpacked at a time
_REMEDY = "Raise it with --data.max_manifest_bytes."
_MAKE = (
    "Make the data with python -m launch.prepare --dataset=an4 (or synthetic), or name manifests with "
    "--data.train_manifest, --data.val_manifest and --data.test_manifest; launch.splice writes joined utterances."
)


class MissingManifestError(InputError):
    """There is no manifest."""

    def __init__(self, *paths: Path) -> None:
        """Takes the paths of the manifests that are missing; the message has what to do about the first."""
        self.paths = paths
        names = ", ".join(map(str, paths))
        super().__init__(f"{names}: no such manifest{'s' if len(paths) > 1 else ''}. {_remedy(paths[0])}")


def listing(path: Path, limit: int, *, columns: Mapping[str, str] = MappingProxyType({})) -> Listing:
    """Reads the rows of a manifest, but none of the files that they name.

    Tar shards, a folder, Parquet by its first bytes, JSON by its suffix or first character, or else a table.

    Args:
      path: the manifest file, or the folder.
      limit: of the manifest's size, bytes (``data.max_manifest_bytes``).
      columns: the names of a table's columns by those of ``manifest_rows.ALIASES``, where they are no known ones.

    Raises:
      InputError: the manifest is missing, too large or malformed.
    """
    try:
        if path.suffix == ".scp" and path.is_file():
            raise InputError(f"{path}: a part of a data folder of Kaldi's; name the folder, {path.parent}")
        if shards.are_shards(path):
            return shards.listing(path)
        if path.is_dir():
            return read_folder(path, limit=limit)
        packed = _unpacked(path, _content(path, limit), limit)
        if packed.startswith(MAGIC):
            return read_parquet(path, packed, limit, columns)
        content = _decoded(packed)
    except FileNotFoundError as error:
        raise MissingManifestError(path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not {error.encoding}; save the manifest as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the path and its permissions") from error
    if path.suffix.lower() in (".json", *LINES) or content.lstrip()[:1] == "{":
        return read_json(path, content, columns)
    return read_table(path, content, columns)


def _content(path: Path, limit: int) -> bytes:
    if not object_store.is_remote(path):
        return read_bounded(path, limit, remedy=_REMEDY)
    with object_store.opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{object_store.url(path)}: more than {limit:,} bytes, the limit. {_REMEDY}")
    return content


def _unpacked(path: Path, content: bytes, limit: int) -> bytes:
    """The content of a manifest, unpacked if gzip has packed it."""
    if content[:2] != b"\x1f\x8b":
        return content
    blocks, left = [], limit
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            while block := file.read(_BLOCK):
                blocks.append(block)
                if (left := left - len(block)) < 0:
                    raise InputError(f"{path}: unpacks to more than {limit:,} bytes, the limit. {_REMEDY}")
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: cut short or damaged ({error}); copy the manifest again") from error
    return b"".join(blocks)


def _decoded(content: bytes) -> str:
    """The text of a manifest. Bytes that are not UTF-8 may belong to the name of a file, and become surrogates."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _remedy(path: Path) -> str:
    """What to do about a manifest that is missing: a folder or corpus of a similar name, or how to make the data."""
    if not path.parent.is_dir():
        folders = [each.name for each in path.parent.parent.glob("*") if each.is_dir()]
        return f"There is no folder {path.parent}{did_you_mean(path.parent.name, folders) or f'. {_MAKE}'}"
    split = path.stem.partition("_")[2]
    others = {other.name.partition(f"_{split}.")[0] for other in path.parent.glob(f"*_{split}.*")}
    own = path.stem.partition("_")[0]
    found = nearest(own, sorted(others)) or sorted(others)
    if found and split:
        return f"{path.parent} holds another corpus: {', '.join(f'--data.dataset={name}' for name in found[:3])}."
    near = did_you_mean_file(path).removeprefix(". ")
    return f"{near} {_MAKE}".lstrip()


def distinct(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """The rows without repetitions, and the number of repetitions."""
    first: dict[Row, Row] = {}
    count = 0
    for row in rows:
        count += 1
        first.setdefault(row._replace(where=""), row)
    return list(first.values()), count - len(first)
