"""Tests of fetching archives from servers that break off, and of unpacking what may be hostile."""

import hashlib
import io
import random
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ds2f.data.corpora import archives, downloads, installation
from ds2f.data.corpora.downloads import PublishedArchive
from ds2f.data.corpora.layout import silent
from ds2f.errors import InputError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes


class Server:
    """A server of one file at ``/good/NAME``, which breaks off after so many bytes; elsewhere there is nothing."""

    def __init__(self, content: bytes, *, gives: int | None = None, ranges: bool = True):
        asked: list[tuple[str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers["Range"]))
                if not self.path.startswith("/good/"):
                    self.send_error(404)
                    return
                begins = int(self.headers["Range"][6:-1]) if ranges and self.headers["Range"] else 0
                if begins >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
                self.send_response(206 if begins else 200)
                self.send_header("Content-Length", str(len(content) - begins))
                self.end_headers()
                self.wfile.write(content[begins:][:gives])
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.asked = asked
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def archive(content: bytes = CONTENT, algorithm: str = "md5", gib: float = 0.01, **more) -> PublishedArchive:
    return PublishedArchive("12/it.tar.gz", f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}", gib, **more)


def fetch(folder: Path, server: Server, what: PublishedArchive | None = None, *, path: str = "good") -> Path:
    mirrors = tuple(f"{server.address}/{name}" for name in path.split())
    return downloads.fetch(what or archive(), folder, progress=silent, mirrors=mirrors, pause=0)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_an_archive_is_fetched_once_and_checked(tmp_path: Path, algorithm: str):
    with Server(CONTENT) as server:
        for _ in range(2):
            assert fetch(tmp_path, server, archive(algorithm=algorithm)).read_bytes() == CONTENT
    assert server.asked == [("/good/12/it.tar.gz", None)]
    assert [path.name for path in tmp_path.iterdir()] == ["it.tar.gz"]


def test_a_server_that_breaks_off_is_asked_for_the_rest(tmp_path: Path):
    with Server(CONTENT, gives=300_000) as server:
        assert fetch(tmp_path, server).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, *(f"bytes={n}-" for n in (300_000, 600_000, 900_000))]


def test_what_an_earlier_call_has_fetched_is_kept(tmp_path: Path):
    (tmp_path / "it.tar.gz.part").write_bytes(CONTENT[:1000])
    with Server(CONTENT) as server:
        assert fetch(tmp_path, server).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["bytes=1000-"]
    (tmp_path / "it.tar.gz").rename(tmp_path / "it.tar.gz.part")
    with Server(CONTENT) as server:
        assert fetch(tmp_path, server).read_bytes() == CONTENT, "all was there already: 416"


def test_a_server_without_ranges_starts_again(tmp_path: Path):
    (tmp_path / "it.tar.gz.part").write_bytes(b"x" * 1000)
    with Server(CONTENT, ranges=False) as server:
        assert fetch(tmp_path, server).read_bytes() == CONTENT


def test_another_mirror_is_tried(tmp_path: Path):
    with Server(CONTENT) as server:
        assert fetch(tmp_path, server, path="bad good").read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/bad/12/it.tar.gz", "/good/12/it.tar.gz"]


def test_mirrors_that_all_fail_are_named_with_their_reasons(tmp_path: Path):
    with Server(CONTENT) as server, pytest.raises(InputError, match=r"bad/12/it\.tar\.gz: 404 Not Found.*Try again"):
        fetch(tmp_path, server, path="bad worse")
    with pytest.raises(InputError, match="refused"):
        fetch(tmp_path, server)


def test_a_wrong_digest_and_an_endless_answer_are_refused(tmp_path: Path):
    with Server(CONTENT) as server:
        with pytest.raises(InputError, match="published is"):
            fetch(tmp_path, server, archive(b"another"))
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(InputError, match=r"more than 128,849 bytes, 1\.2 times"):
            fetch(tmp_path, server, archive(gib=0.0001))
    (tmp_path / "it.tar.gz").write_bytes(b"mine")
    with pytest.raises(InputError, match="published is"):
        fetch(tmp_path, server)
    assert (tmp_path / "it.tar.gz").read_bytes() == b"mine", "what the user put there is not removed"


def packed(*members: tuple[str, object], mode: str = "w:gz") -> bytes:
    """A tar archive of (name, content or TarInfo's changes)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
            else:
                for field, value in content.items():
                    setattr(info, field, value)
                made.addfile(info)
    return file.getvalue()


LINK = {"type": tarfile.SYMTYPE}


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("../out.txt", b"x"), "leads out"),
        (("a/../../out.txt", b"x"), "leads out"),
        (("/tmp/out.txt", b"x"), "leads out"),
        (("link", LINK | {"linkname": "/etc/passwd"}), "leads out"),
        (("a/link", LINK | {"linkname": "../../out.txt"}), "leads out"),
        (("hard", {"type": tarfile.LNKTYPE, "linkname": "../out.txt"}), "leads out"),
        (("pipe", {"type": tarfile.FIFOTYPE}), "device or pipe"),
        (("null", {"type": tarfile.CHRTYPE}), "device or pipe"),
        (("disk\x1b[31m", {"type": tarfile.BLKTYPE}), r"disk\\x1b\[31m.* is a device or pipe"),
        ((".", b"x"), "a member without a name"),
        (("good.txt/below", b"x"), "a member has no place in its folder, .*File exists"),
        (("n" * 300, b"x"), "a member has no place in its folder, .*too long"),
        (("map", {"pax_headers": {"GNU.sparse.map": "0,x"}}), "not a readable archive"),
        (("size", {"pax_headers": {"GNU.sparse.size": "1e9", "GNU.sparse.map": "0,1"}}), "not a readable archive"),
    ],
)
def test_a_hostile_member_is_refused(tmp_path: Path, member, reason: str):
    (tmp_path / "it.tar.gz").write_bytes(packed(("good.txt", b"good"), member))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match=reason):
        unpack(tmp_path / "it.tar.gz", folder)
    assert {path.name for path in tmp_path.rglob("*")} <= {"it.tar.gz", "folder", "good.txt"}
    assert not Path("/tmp/out.txt").exists()


def unpack(path: Path, folder: Path, **limits: int) -> int:
    limit = archives.Limits(**{"unpacked_bytes": 1 << 20, "members": 100} | limits)
    return archives.unpack(path, folder, archives.Budget(path, limit), progress=lambda done: None)


def test_links_inside_are_left_out_and_nothing_is_written_through_one(tmp_path: Path):
    content = packed(("a/x.txt", b"x"), ("b", LINK | {"linkname": "a"}), ("b/y.txt", b"y"), ("a/x.txt", b"new"))
    (tmp_path / "it.tar.gz").write_bytes(content)
    (tmp_path / "folder").mkdir()
    assert unpack(tmp_path / "it.tar.gz", tmp_path / "folder") == 1
    assert (tmp_path / "folder/a/x.txt").read_bytes() == b"new"
    assert (tmp_path / "folder/b/y.txt").read_bytes() == b"y"
    (tmp_path / "other").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "second/a").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match="a link is in the archive's way"):
        unpack(tmp_path / "it.tar.gz", tmp_path / "second")
    assert list((tmp_path / "other").iterdir()) == []


def test_the_folder_itself_may_be_a_member(tmp_path: Path):
    (tmp_path / "it.tar.gz").write_bytes(packed(("./", {"type": tarfile.DIRTYPE}), ("./a/x.txt", b"x")))
    (tmp_path / "folder").mkdir()
    assert unpack(tmp_path / "it.tar.gz", tmp_path / "folder") == 0
    assert (tmp_path / "folder/a/x.txt").read_bytes() == b"x"


def test_no_damage_of_a_zip_file_is_a_fault_of_the_program(tmp_path: Path):
    path, draw = tmp_path / "it.zip", random.Random(0)
    with zipfile.ZipFile(path, "w") as made:
        for number in range(4):
            made.writestr(f"ä{number}", f"{number}" * 20)
    whole, refused = path.read_bytes(), set()
    begin = whole.find(b"PK\x01\x02")  # of the directory
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(begin, len(content))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            list(archives.members(path, lambda name: True, archives.Budget(path, archives.Limits())))
        except InputError as error:
            refused.add(str(error).partition("(")[0].removeprefix(f"{path}: ")[:20])
    assert {"not a readable archi", "damaged, it names pl"} <= refused


def test_bombs_and_broken_archives_are_refused(tmp_path: Path):
    path = tmp_path / "it.tar.gz"
    (tmp_path / "folder").mkdir()
    path.write_bytes(packed(("big", bytes(8 << 20))))
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match="unpacks to"):
        unpack(path, tmp_path / "folder")
    assert sum(file.stat().st_size for file in (tmp_path / "folder").rglob("*")) <= 1 << 20
    path.write_bytes(packed(*((f"{n}", b"") for n in range(200))))
    with pytest.raises(InputError, match="101 members or more"):
        unpack(path, tmp_path / "folder")
    path.write_bytes(packed(("a", bytes(range(256)) * 100))[:200])
    with pytest.raises(InputError, match="cut short"):
        unpack(path, tmp_path / "folder")


def test_a_corpus_with_archives_inside_is_installed_once(tmp_path: Path):
    speakers = [(f"data_aishell/wav/S000{n}.tar.gz", packed((f"train/S000{n}/a.wav", b"sound"))) for n in (2, 3)]
    content = packed(("data_aishell/transcript/t.txt", b"text"), *speakers)
    what = archive(content, inner="data_aishell/wav/*.tar.gz")
    with Server(content, gives=len(content) // 2 + 1) as server:
        for _ in range(2):
            installation.install([what], tmp_path, progress=silent, mirrors=(f"{server.address}/good",), pause=0)
            found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
            assert found == [
                ".it.tar.gz.unpacked",
                "data_aishell/transcript/t.txt",
                "data_aishell/wav/train/S0002/a.wav",
                "data_aishell/wav/train/S0003/a.wav",
                "it.tar.gz",
            ]
    assert len(server.asked) == 2, "the second half, and nothing for the second call"


def test_parts_are_named_and_unknown_addresses_told_of():
    with pytest.raises(InputError, match=r"name parts of librispeech with --subset: dev-clean \(0\.33 GiB\)"):
        downloads.archives_of("librispeech", ())
    assert [each.name for each in downloads.archives_of("librispeech", ("dev-clean",))] == ["12/dev-clean.tar.gz"]
    assert len(downloads.archives_of("aishell1", ("train",))) == 1
    with pytest.raises(InputError, match=r"no address of commonvoice is known\. Fetch a language from commonvoice"):
        downloads.archives_of("commonvoice", ())


def test_digests_have_the_length_of_their_algorithm():
    for parts in downloads.ARCHIVES.values():
        for each in parts.values():
            algorithm, _, digest = each.digest.partition(":")
            assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size
