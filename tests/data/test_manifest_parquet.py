"""Tests of tables in Parquet."""

import contextlib
import random
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifest_listing, manifest_parquet, manifests
from ds2f.errors import InputError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        soundfile.write(tmp_path / f"{index}.wav", np.ones(8000) / 2, 8000)
    return tmp_path


def test_rows_are_read_by_the_names_of_columns(folder: Path):
    columns = {
        "audio_filepath": [f"{index}.wav" for index in range(3)],
        "text": ["eins", None, "d r e i"],
        "speaker": ["a", "b", None],
        "offset": [0.25, 0.0, 0.0],
        "duration": [0.5, None, None],
        "embedding": [[0.5] * 10] * 3,
    }
    parquet.write_table(arrow.table(columns), folder / "m.parquet", row_group_size=2)
    found = []
    read = manifests.read(folder / "m.parquet", found=found)
    assert [tuple(each)[1:6] for each in read] == [
        (folder / "0.wav", "eins", 0.5, 0.25, "a"),
        (folder / "2.wav", "d r e i", 1.0, None, ""),
    ]
    assert [problem.where for problem in found] == [f"{folder}/m.parquet: row 2"]


def test_other_names_are_given(folder: Path):
    table = arrow.table({"clip": ["0.wav"], "satz": ["JA"], "text": ["no"]})
    parquet.write_table(table, folder / "m.parquet")
    rows = manifest_listing.listing(folder / "m.parquet", 1 << 20, columns={"audio": "clip", "text": "satz"}).rows
    assert [(row.audio.name, row.transcript) for row in rows] == [("0.wav", "JA")]
    with pytest.raises(InputError, match=r"no column 'none' among clip, satz, text"):
        manifest_listing.listing(folder / "m.parquet", 1 << 20, columns={"audio": "none"})


def test_exact_numbers_and_spans_of_time_are_seconds_and_infinite_ones_are_none(folder: Path):
    names, texts = ["0.wav", "1.wav", "2.wav"], ["a", "b", "c"]
    spans = (
        [Decimal("0.25"), Decimal("0.5"), None],
        arrow.array([250, 500, None], arrow.duration("ms")),
        [0.25, 0.5, float("nan")],
    )
    for each in spans:
        parquet.write_table(arrow.table({"audio": names, "text": texts, "duration": each}), folder / "m.parquet")
        assert [row.seconds for row in manifest_listing.listing(folder / "m.parquet", 1 << 20).rows] == [
            0.25,
            0.5,
            None,
        ]
    table = arrow.table({"audio": names, "text": texts, "offset": [float("inf"), 0.0, 0.0]})
    parquet.write_table(table, folder / "m.parquet")
    (problem,) = manifest_listing.listing(folder / "m.parquet", 1 << 20).problems
    assert str(problem) == f"{folder}/m.parquet: row 1: offset: 'inf' is not a number of seconds"


def test_recordings_inside_the_table_are_problems(folder: Path):
    table = arrow.table({"audio": [{"bytes": b"RIFF", "path": "0.wav"}], "text": ["JA"]})
    parquet.write_table(table, folder / "m.parquet")
    with pytest.raises(InputError, match="needs a recording"):
        manifests.read(folder / "m.parquet")


def test_a_text_that_repeats_without_taking_room_is_no_bomb(folder: Path):
    rows = 20_000
    table = arrow.table({"audio": ["0.wav"] * rows, "text": ["x" * 100_000] * rows})
    parquet.write_table(table, folder / "m.parquet", compression="zstd")
    assert (folder / "m.parquet").stat().st_size < 100_000
    with pytest.raises(InputError, match="unpacks to more than 10,000,000 bytes"):
        manifest_listing.listing(folder / "m.parquet", 10_000_000)


def test_damaged_tables_are_told_of(folder: Path):
    parquet.write_table(arrow.table({"audio": ["0.wav"], "text": ["JA"]}), folder / "m.parquet")
    content = (folder / "m.parquet").read_bytes()
    for damaged in (content[:-20], b"PAR1" + b"\0" * 50):
        (folder / "m.parquet").write_bytes(damaged)
        with pytest.raises(InputError, match="no Parquet that can be read"):
            manifests.read(folder / "m.parquet")


def test_no_damage_ends_the_process(folder: Path):
    """Some damaged files make pyarrow abort, which no exception tells."""
    columns = {"audio": [f"{n}.wav" for n in range(3)], "text": ["a b", "c", "d"]}
    parquet.write_table(arrow.table(columns), folder / "m.parquet")
    content = (folder / "m.parquet").read_bytes()
    draw = random.Random(2)
    for _ in range(3):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[draw.randrange(4, len(damaged))] = draw.randrange(256)
        (folder / "m.parquet").write_bytes(damaged)
        with contextlib.suppress(InputError):
            manifest_listing.listing(folder / "m.parquet", 1 << 20)


def test_a_decoder_that_aborts_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch):
    parquet.write_table(arrow.table({"audio": ["0.wav"], "text": ["JA"]}), folder / "m.parquet")
    monkeypatch.setattr(manifest_parquet, "_CHILD", "import os, sys; print('torn page', file=sys.stderr); os.abort()")
    with pytest.raises(InputError, match=r"m\.parquet: no Parquet that can be read \(torn page\); write"):
        manifests.read(folder / "m.parquet")
