"""Fetches and unpacks the archives of a published corpus into a folder."""

from collections.abc import Sequence
from pathlib import Path

from ds2f.data.corpora import archives, downloads
from ds2f.data.corpora.downloads import PublishedArchive
from ds2f.data.corpora.layout import Progress, make_folder
from ds2f.files import write_atomically

_LARGER = 4  # times its size is the most that an archive of recordings unpacks to
_MEMBERS = 1_000_000


def install(
    published: Sequence[PublishedArchive],
    folder: Path,
    *,
    progress: Progress,
    mirrors: tuple[str, ...] = downloads.MIRRORS,
    pause: float = 2.0,
) -> None:
    """Fetches, checks and unpacks archives, each unless that is done already.

    A file ``.NAME.unpacked`` says that an archive is unpacked. Without it the archive is unpacked again, over what is
    there. The archives stay; they may be removed by hand.

    Args:
      published: the archives.
      folder: takes the archives and their trees.
      progress: called with the activity, the number done and the total (0: unknown).
      mirrors: addresses above the archives' names.
      pause: seconds before the second attempt to fetch.

    Raises:
      InputError: an archive cannot be fetched, has another digest than published, or cannot be unpacked safely.
    """
    make_folder(folder)
    for each in published:
        mark = folder / f".{each.name.rpartition('/')[2]}.unpacked"
        if mark.exists() and mark.read_text(encoding="utf-8").strip() == each.digest:
            continue
        path = downloads.fetch(each, folder, progress=progress, mirrors=mirrors, pause=pause)
        _unpack(path, folder, progress)
        for inner in sorted(folder.glob(each.inner)) if each.inner else ():
            _unpack(inner, inner.parent, progress)
            inner.unlink()  # it is in the archive, too
        write_atomically(mark, f"{each.digest}\n", fsync=True)


def _unpack(path: Path, folder: Path, progress: Progress) -> None:
    limits = archives.Limits(unpacked_bytes=_LARGER * path.stat().st_size + (1 << 20), members=_MEMBERS)
    budget = archives.Budget(path, limits)
    archives.unpack(path, folder, budget, progress=lambda done: progress(f"unpacking {path.name}", done, 0))
