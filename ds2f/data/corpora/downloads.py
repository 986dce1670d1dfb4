"""Archives of published corpora: fetched in as many attempts as it takes, compared with their published digests.

Addresses and digests: openslr.org/12, /33 and /51 (LibriSpeech's ``md5sum.txt``); TED-LIUM's SHA-256 is the one that
torchaudio's ``datasets/tedlium.py`` compares with.
"""

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from ds2f.data.corpora.layout import Progress
from ds2f.data.corpora.readers import CORPORA
from ds2f.errors import InputError

MIRRORS = (
    "https://www.openslr.org/resources",
    "https://us.openslr.org/resources",
    "https://openslr.elda.org/resources",
)
_TIMEOUT = 30.0  # seconds without an answer
_BLOCK = 1 << 20  # bytes
_ATTEMPTS = 5  # one after another that bring nothing
_PAUSE = 2.0  # seconds before the second attempt; doubled before each further one
_MOST = 1.2  # times the published size, which is rounded
_GIB = 1 << 30
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class PublishedArchive(NamedTuple):
    """An archive of a corpus."""

    name: str  # below each of MIRRORS
    digest: str  # ALGORITHM:HEX
    gib: float  # as published, rounded
    inner: str = ""  # pattern of archives in it, which are unpacked where they lie


ARCHIVES: dict[str, dict[str, PublishedArchive]] = {  # by corpus and part
    "librispeech": {
        "dev-clean": PublishedArchive("12/dev-clean.tar.gz", "md5:42e2234ba48799c1f50f24a7926300a1", 0.33),
        "dev-other": PublishedArchive("12/dev-other.tar.gz", "md5:c8d0bcc9cca99d4f8b62fcc847357931", 0.31),
        "test-clean": PublishedArchive("12/test-clean.tar.gz", "md5:32fa31d27d2e1cad72775fee3f4849a9", 0.34),
        "test-other": PublishedArchive("12/test-other.tar.gz", "md5:fb5a50374b501bb3bac4815ee91d3135", 0.32),
        "train-clean-100": PublishedArchive("12/train-clean-100.tar.gz", "md5:2a93770f6d5c6c964bc36631d331a522", 6.3),
        "train-clean-360": PublishedArchive("12/train-clean-360.tar.gz", "md5:c0e676e450a7ff2f54aeade5171606fa", 23),
        "train-other-500": PublishedArchive("12/train-other-500.tar.gz", "md5:d1a0fd59409feb2c614ce4d30c387708", 30),
    },
    "tedlium3": {
        "": PublishedArchive(
            "51/TEDLIUM_release-3.tgz", "sha256:ad1e454d14d1ad550bc2564c462d87c7a7ec83d4dc2b9210f22ab4973b9eccdb", 54
        )
    },
    "aishell1": {
        "": PublishedArchive(
            "33/data_aishell.tgz", "md5:2f494334227864a8a8fec932999db9d8", 15, inner="data_aishell/wav/*.tar.gz"
        )
    },
}


def archives_of(corpus: str, subset: tuple[str, ...]) -> list[PublishedArchive]:
    """The archives of a corpus, or of the parts that ``subset`` names.

    Raises:
      InputError: no address of the corpus is known, or the parts are not named.
    """
    if corpus not in ARCHIVES:
        remedy = CORPORA[corpus].parts if corpus in CORPORA else "Name its place with --source."
        raise InputError(f"--download: no address of {corpus} is known. {remedy}")
    found = ARCHIVES[corpus]
    if "" in found:
        return [found[""]]
    sizes = ", ".join(f"{part} ({archive.gib:g} GiB)" for part, archive in found.items())
    if not subset or not {*subset} <= found.keys():
        raise InputError(f"--download: name parts of {corpus} with --subset: {sizes}")
    return [found[part] for part in subset]


def fetch(
    archive: PublishedArchive,
    folder: Path,
    *,
    progress: Progress,
    mirrors: tuple[str, ...] = MIRRORS,
    pause: float = _PAUSE,
) -> Path:
    """Fetches an archive, unless it is there, and compares it with its digest.

    What has come is kept in ``NAME.part``; the next attempt, or the next call, asks for the rest.

    Args:
      archive: what to fetch.
      folder: where to; made if missing.
      progress: called with the bytes that are there, and all.
      mirrors: addresses above the archive's name, tried in turn.
      pause: seconds before the second attempt.

    Returns:
      The archive's path.

    Raises:
      InputError: no mirror answers, the archive is larger than published, or it has another digest.
    """
    path = folder / archive.name.rpartition("/")[2]
    part = path.with_name(f"{path.name}.part")
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _fetch_part(archive, part, mirrors, pause, progress)
        _require_digest(part, archive, progress)
        part.rename(path)
    else:
        _require_digest(path, archive, progress)
    return path


def _fetch_part(
    archive: PublishedArchive, part: Path, mirrors: tuple[str, ...], pause: float, progress: Progress
) -> None:
    """Asks mirror after mirror for what is missing, until all is there."""
    failures, reasons = 0, dict[str, str]()
    while failures < _ATTEMPTS:
        address = f"{mirrors[failures % len(mirrors)]}/{archive.name}"
        before = _size(part)
        try:
            if _receive(address, part, int(_MOST * archive.gib * _GIB), progress):
                return
            reasons[address] = "it broke off"
        except urllib.error.HTTPError as error:
            reasons[address] = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _NO_SPACE:
                raise
            reasons[address] = str(getattr(error, "reason", error)) or type(error).__name__
        if _size(part) > before:
            failures = 0
            continue
        time.sleep(pause * 2**failures)
        failures += 1
    tried = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
    raise InputError(
        f"{part.name.removesuffix('.part')} cannot be fetched ({tried}). Try again, which goes on after the "
        f"{_size(part):,} bytes that are there; or fetch it yourself into {part.parent}"
    )


def _receive(address: str, part: Path, limit: int, progress: Progress) -> bool:
    """Appends what the address gives to the part; whether that is all.

    Raises:
      InputError: the archive is larger than the limit.
      OSError: the address cannot be reached, or broke off.
    """
    have = _size(part)
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return True
            part.unlink()  # longer than the archive: it is of another one
        raise
    with answer:
        # A server without ranges sends all from the beginning.
        begins = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        total = begins + int(answer.headers.get("Content-Length") or limit)
        with part.open("r+b" if begins else "wb") as file:
            file.seek(begins)
            while block := answer.read(_BLOCK):
                file.write(block)
                if file.tell() > limit:
                    raise InputError(f"{address}: more than {limit:,} bytes, 1.2 times the published size; look at it")
                progress(f"fetching {part.stem}", file.tell(), total)
            return file.tell() == total


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _require_digest(path: Path, archive: PublishedArchive, progress: Progress) -> None:
    """Requires the published digest; a download with another one is removed.

    Raises:
      InputError: it has another one.
    """
    algorithm, _, expected = archive.digest.partition(":")
    digest, done, total = hashlib.new(algorithm, usedforsecurity=False), 0, _size(path)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress(f"checking {path.name}", done := done + len(block), total)
    if digest.hexdigest() != expected:
        if path.suffix == ".part":
            path.unlink()
        raise InputError(
            f"{path}: {algorithm} {digest.hexdigest()}, published is {expected}: damaged, or another archive; remove "
            "it and fetch it again"
        )
