"""Tests of the lines of epochs, in the log and on a terminal."""

import pytest

from ds2f.runner import epoch_table


@pytest.mark.parametrize(
    ("more", "row"),
    [
        (
            {"steps": 0, "validation": "val loss 1.500  WER 9.00 %  CER 3.00 %", "best": True},
            "3/70 2.000 1.500 9.00 3.00 * 12.0 1.00e-03 3 h 05 min",
        ),
        ({"steps": 12}, "3/70+12 2.000 12.0 1.00e-03 3 h 05 min"),
    ],
)
def test_a_line_of_the_log_becomes_a_row_within_80_columns(more, row):
    logged = epoch_table.line("3/70", loss=2, speed=12, rate=1e-3, **more)
    heading, shown = epoch_table.EpochTable().rows(f"{logged}  3 h 05 min left")
    assert shown.plain.split() == row.split()
    assert "bold" in str(shown.style) or not more.get("best")
    assert max(len(heading.plain), len(shown.plain)) <= 80


def test_utterances_left_out_stand_below_the_row():
    validation = "val loss 1.500  CER 9.00 %  WER 30.00 % (2 unreadable, left out)"
    logged = epoch_table.line("3/70", 0, loss=2, validation=validation, speed=12, rate=1e-3)
    heading, row, remark = epoch_table.EpochTable().rows(logged)
    assert heading.plain.split()[-6:] == ["CER", "%", "WER", "%", "utt/s", "lr", "left"][-6:]
    assert row.plain.split() == ["3/70", "2.000", "1.500", "9.00", "30.00", "12.0", "1.00e-03"]
    assert remark.plain == "  2 unreadable, left out"


def test_headings_come_again_and_other_messages_are_no_rows():
    table = epoch_table.EpochTable()
    shown = [table.rows(epoch_table.line(f"{epoch}/50", 0, loss=1, speed=1, rate=1)) for epoch in range(1, 42)]
    assert [index for index, rows in enumerate(shown) if len(rows) == 2] == [0, 20, 40]
    for message in ("epoch 3 was skipped", "runs/x: 5 x 1024", "stopped in epoch 1 after batch 2"):
        assert table.rows(message) is None
