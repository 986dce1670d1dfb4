"""Recordings of one's own as corpora: folders, and tables with named columns."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ds2f.config import DataConfig
from ds2f.data import manifest_listing, manifests
from ds2f.data.corpora.readers import LeftOut, Reader, Spoken
from ds2f.data.manifest_paths import split_of_name
from ds2f.errors import InputError

_log = logging.getLogger(__name__)
FAULTY = "in rows that cannot be used"  # the user corrects them, or allows them with --data.max_unusable


def folder(source: Path, subset: tuple[str, ...], cfg: DataConfig) -> Iterator[Spoken | LeftOut]:
    """A folder in any form of ``manifests.read``, or one with such a folder for each set: ``train``, ``dev``, ``test``.

    ``subset`` names nothing.
    """
    _refuse_subset(subset)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; a table of recordings is read with --dataset=table")
    sets = {path: split for path in sorted(source.iterdir()) if path.is_dir() and (split := split_of_name(path.name))}
    if "train" in sets.values() and not (source / "wav.scp").is_file():
        for path, split in sets.items():
            yield from _spoken(path, cfg, split)
    else:
        yield from _spoken(source, cfg)


def table(columns: Mapping[str, str]) -> Reader:
    """The reader of a table whose columns have other names: ``{"audio": "path", "text": "sentence"}``.

    Args:
      columns: the table's names by ours, those of ``manifest_rows.ALIASES``; empty: the known names.
    """

    def read(source: Path, subset: tuple[str, ...], cfg: DataConfig) -> Iterator[Spoken | LeftOut]:
        _refuse_subset(subset)
        if source.is_dir():
            raise InputError(f"{source}: a folder, not a table; read it with --dataset=folder")
        yield from _spoken(source, cfg, columns=columns)

    return read


def _refuse_subset(subset: tuple[str, ...]) -> None:
    if subset:
        raise InputError("recordings of your own have no parts; leave out --subset")


def _spoken(
    source: Path, cfg: DataConfig, split: str = "", *, columns: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Spoken | LeftOut]:
    found = manifest_listing.listing(source, cfg.max_manifest_bytes, columns=columns)
    yield from (LeftOut(FAULTY, str(problem)) for problem in found.problems)
    rows, repeated = manifest_listing.distinct(found.rows)
    for remark in (*found.remarks, *([f"{source}: {repeated} repeated row(s) dropped"] if repeated else [])):
        _log.warning("%s", remark)
    for row in rows:
        try:
            text = manifests.transcript_of(row, cfg.max_text_bytes)
        except InputError as error:
            yield LeftOut(FAULTY, f"{row.where}: {error}")
            continue
        yield Spoken(row.split or split, row.audio, text, row.speaker, row.start, row.seconds, row.lang)
