"""Tests of the message about everything that is wrong with the sets of a run."""

from collections import Counter
from pathlib import Path

import pytest

from ds2f.data.problems import Checked, Problem, require_few
from ds2f.errors import InputError


def lines(sets: list[Checked], **how) -> list[str]:
    with pytest.raises(InputError) as caught:
        require_few(sets, **how)
    return str(caught.value).split("\n  ")


def empty(count: int, name: str = "m.csv") -> list[Problem]:
    return [Problem(f"{name}:{row}", f"wav/{row}.wav: the file is empty; copy it again") for row in range(1, count + 1)]


def test_problems_are_listed_by_set_and_kind_with_counts_and_first_examples() -> None:
    missing = Problem("m.csv:9", "wav/9.wav: No such file; check the path")
    found = lines([Checked("train", "m.csv", 40, [*empty(12), missing]), Checked("val", "v.csv", 5, empty(1, "v.csv"))])
    assert found[0] == "train: m.csv: 13 of 40 rows cannot be used:"
    assert found[1:4] == [str(each) for each in empty(3)]
    assert found[4] == "... and 9 more of this kind (12 in all)"
    assert found[5] == str(missing)
    assert found[6:8] == ["val: v.csv: 1 of 5 rows cannot be used:", str(empty(1, "v.csv")[0])]
    assert found[8] == "to go on without these rows: --data.max_unusable=13"
    whole = Path(found[9].removeprefix("the whole list: ")).read_text(encoding="utf-8").splitlines()
    assert len(whole) == 14
    assert whole[0] == f"train\t{empty(1)[0]}"


def test_the_list_is_the_same_file_for_every_rank_and_start() -> None:
    sets = [Checked("train", "m.csv", 40, empty(12))]
    assert lines(sets)[-1] == lines(sets)[-1]
    assert lines(sets)[-1] != lines([Checked("train", "m.csv", 40, empty(11))])[-1]


def test_characters_outside_the_labels_are_added_up_over_all_sets_with_the_command_for_a_labels_file() -> None:
    strange = [Problem("a.wav", "characters outside the labels: 'é'", Counter({"é": 2})) for _ in range(12)]
    found = lines(
        [
            Checked("train", "m", 40, strange),
            Checked("val", "v", 9, [*strange[:1], strange[0]._replace(characters={"7": 3})]),
        ]
    )
    assert found[4] == "... and 9 more of this kind (12 in all)"
    advice = next(line for line in found if "in all sets" in line)
    assert "'é' 26, '7' 3." in advice
    assert "python -m launch.prepare --labels=labels.json" in advice
    assert "--data.unknown_characters=drop_character" in advice


def test_a_set_within_the_limit_goes_on_with_a_remark_unless_another_is_beyond_it() -> None:
    few, many = Checked("train", "m", 40, empty(2)), Checked("val", "v", 40, empty(3))
    remarks = require_few([few, Checked("val", "v", 40, [])], limit=2)
    assert list(remarks) == ["train"]
    assert str(remarks["train"]).startswith("2 utterance(s) left out, as recordings or transcripts cannot be used")
    assert "m.csv:1" in str(remarks["train"])
    assert len([line for line in lines([few, many], limit=2) if "cannot be used:" in line]) == 2


def test_a_manifest_that_cannot_be_read_is_told_of_beside_the_rows_of_another() -> None:
    found = lines([Checked("train", "m", 3, empty(1))], limit=5, broken=["val: v.csv: no such manifest"])
    assert found[:2] == ["val: v.csv: no such manifest", "train: m: 1 of 3 rows cannot be used:"]
    assert lines([], broken=["val: v.csv: no such manifest"]) == ["val: v.csv: no such manifest"]


def test_nobody_is_advised_to_leave_every_row_out() -> None:
    assert not [line for line in lines([Checked("train", "m", 3, empty(3))]) if "max_unusable" in line]


def test_a_folder_that_cannot_be_written_costs_the_list_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "nowhere"))
    assert not [line for line in lines([Checked("train", "m", 40, empty(12))]) if "whole list" in line]
