"""Logits in a file come back as they were; files of any other kind are refused before they are believed."""

import io
import json
import os
import re
import zipfile

import attrs
import numpy as np
import pytest
import torch

from ds2f import decode
from ds2f.errors import InputError
from ds2f.inference import saved_logits, tuner
from ds2f.inference.saved_logits import About, SavedLogits

ABOUT = About(
    run="run", which="best", split="val", manifest="val.csv", trained_on=False, labels=("_", "A", "é", " "),
    references=("A", "", "é A"), audio=("a.wav", "b.wav", "c\udce9.wav"),
)  # fmt: skip


def made(*lengths: int) -> SavedLogits:
    generator = torch.Generator().manual_seed(1)
    return SavedLogits(ABOUT, [torch.randn(length, 4, generator=generator).log_softmax(1) for length in lengths])


@pytest.mark.parametrize("lengths", [(5, 1, 3), (0, 2, 0), (1, 1, 1)])
def test_what_was_saved_is_loaded_to_the_bit(tmp_path, lengths):
    saved = made(*lengths)
    saved_logits.save(tmp_path / "logits.npz", saved)
    found = saved_logits.load(tmp_path / "logits.npz")
    assert found.about == ABOUT
    assert all(map(torch.equal, found.logits, saved.logits))


def test_batches_keep_order_lengths_and_references(monkeypatch):
    monkeypatch.setattr(saved_logits, "_BATCH", 2)
    saved = made(5, 1, 3)
    batches = saved.batches()
    assert [batch.references for batch in batches] == [["A", ""], ["é A"]]
    rows = [row[:length] for batch in batches for row, length in zip(*batch.logits, strict=True)]
    assert all(map(torch.equal, rows, saved.logits))
    alone = [tuner.ScoredBatch(batch.logits, batch.references) for batch in batches]
    assert tuner.total_errors(alone, decode.greedy, ABOUT.labels).words == 3


class Executed:
    """Executes a command where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def archive(**changed):
    """The members of a whole file, some of them other arrays; None leaves one out."""
    saved = made(5, 1, 3)
    whole = {
        "values": torch.cat(saved.logits).numpy(),
        "lengths": np.array([5, 1, 3], "<i8"),
        "about": np.frombuffer(json.dumps(attrs.asdict(ABOUT)).encode(), "u1"),
    }
    content = io.BytesIO()
    np.savez(content, **{name: array for name, array in (whole | changed).items() if array is not None})
    return content.getvalue()


def described(**changed):
    return np.frombuffer(json.dumps(attrs.asdict(ABOUT) | changed).encode(), "u1")


def promising(shape):
    """An archive whose header promises more values than there are."""
    member, content = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("values.npy", member.getvalue())
        file.writestr("lengths.npy", member.getvalue())
        file.writestr("about.npy", member.getvalue())
    return content.getvalue()


def compressed():
    content = io.BytesIO()
    np.savez_compressed(content, values=np.zeros((1 << 20, 4), "<f4"), lengths=np.zeros(3, "<i8"), about=described())
    return content.getvalue()


DAMAGED = {
    "empty": lambda: b"",
    "text": lambda: b"A\n",
    "cut off": lambda: archive()[:-30],
    "changed bytes": lambda: archive().replace(archive()[200:210], bytes(10)),
    "a pickle": lambda: archive(about=np.array([Executed()], object)),
    "a pickle alone": lambda: __import__("pickle").dumps(Executed()),
    "compressed": compressed,
    "terabytes promised": lambda: promising((1 << 40, 4)),
    "negative": lambda: promising((-1, 4)),
    "one dimension": lambda: archive(values=np.zeros(36, "<f4")),
    "another type": lambda: archive(values=np.zeros((9, 4), "<f8")),
    "big-endian": lambda: archive(lengths=np.array([5, 1, 3], ">i8")),
    "no lengths": lambda: archive(lengths=None),
    "lengths too long": lambda: archive(lengths=np.array([5, 1, 4], "<i8")),
    "lengths negative": lambda: archive(lengths=np.array([9, -3, 3], "<i8")),
    "lengths overflow": lambda: archive(lengths=np.array([2**62, 2**62, 9 - 2**63], "<i8")),
    "another number of labels": lambda: archive(about=described(labels=["_", "A"])),
    "fewer references": lambda: archive(about=described(references=["A"])),
    "labels that are no texts": lambda: archive(about=described(labels=[1, 2, 3, 4])),
    "trained_on is no truth": lambda: archive(about=described(trained_on="no")),
    "further fields": lambda: archive(about=described(more=1)),
    "no object": lambda: archive(about=np.frombuffer(b"[1]", "u1")),
    "deep": lambda: archive(about=np.frombuffer(b"[" * 100_000, "u1")),
    "not a number": lambda: archive(values=np.full((9, 4), np.nan, "<f4")),
    "infinite": lambda: archive(values=np.full((9, 4), np.inf, "<f4")),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_other_content_is_refused_with_the_file_and_the_remedy(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "logits.npz"
    path.write_bytes(DAMAGED[kind]())
    with pytest.raises(InputError, match=re.escape(str(path)) + r".*--save_logits") as caught:
        saved_logits.load(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_what_is_no_file_or_too_large_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing"):
        with pytest.raises(InputError, match=re.escape(str(path))):
            saved_logits.load(path)
    saved_logits.save(tmp_path / "logits.npz", made(5, 1, 3))
    monkeypatch.setattr(saved_logits, "LARGEST", 100)
    with pytest.raises(InputError, match="the limit is 100"):
        saved_logits.load(tmp_path / "logits.npz")
