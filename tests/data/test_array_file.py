"""Arrays in a file: what was written, or an error."""

import numpy as np
import pytest

from ds2f.data import array_file
from ds2f.data.array_file import DamagedFile

ARRAYS = {
    "a": np.arange(5, dtype=np.uint16),
    "b.c": np.array([0.5, np.nan]),
    "empty": np.empty(0, dtype=np.int64),
    "bytes": np.frombuffer(b"some text", dtype=np.uint8),
}
ABOUT = {"remarks": [["left out", 2, ["é\udce9.wav"]]]}


def test_arrays_and_record_come_back(tmp_path):
    array_file.write(tmp_path / "file", ARRAYS, ABOUT)
    found = array_file.load(tmp_path / "file")
    assert found.about == ABOUT
    assert list(found.arrays) == list(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], values)
        assert found.arrays[name].dtype == values.dtype
    assert dict(found.group("b.")).keys() == {"c"}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_in_which_any_byte_is_altered_is_refused(tmp_path):
    path = tmp_path / "file"
    array_file.write(path, ARRAYS, ABOUT)
    content = path.read_bytes()
    start = content.index(b"\n", content.index(b"\n") + 1) + 1
    padding = range(start, -(-start // 64) * 64)  # before the arrays; nothing reads it
    for place in range(len(content)):
        if place in padding:
            continue
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(DamagedFile):
            array_file.load(path)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path, size):
    path = tmp_path / "file"
    array_file.write(path, ARRAYS, ABOUT)
    path.write_bytes(path.read_bytes()[:size])
    for verify in (True, False):
        with pytest.raises(DamagedFile) as caught:
            array_file.load(path, verify=verify)
        assert str(caught.value).count(str(path)) == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    array_file.write(path, ARRAYS, {})
    before = path.read_bytes()
    monkeypatch.setattr(type(path), "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        array_file.write(path, {}, ABOUT)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
