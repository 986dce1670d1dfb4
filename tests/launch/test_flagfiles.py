"""Flagfiles as people have them, and which of two values counts."""

import codecs
from pathlib import Path

import pytest
from absl.testing import flagsaver

from ds2f.config import Config, DataConfig, OptimConfig
from ds2f.errors import InputError
from launch import flagfiles, flags

LINES = "# a comment\n\n--data_path=über uns/daten\n  --data.batch_size=3  \n// another\n--optim.schedule=constant\n"
ARGUMENTS = ["--data_path=über uns/daten", "--data.batch_size=3", "--optim.schedule=constant"]


def texts(*arguments):
    return [each.text for each in flagfiles.expanded(arguments)]


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        codecs.BOM_UTF8 + LINES.encode(),
        LINES.replace("\n", "\r\n").encode(),
        codecs.BOM_UTF8 + LINES.replace("\n", "\r\n").encode(),
        LINES.replace("\n", "\r").encode(),
        LINES.encode("utf-16"),
        codecs.BOM_UTF16_BE + LINES.replace("\n", "\r\n").encode("utf-16-be"),
        LINES.replace("über uns/daten", '"über uns/daten"').encode(),
        LINES.replace("über uns/daten", " 'über uns/daten'").replace("=3", '="3"').encode(),
        LINES.replace("--data_path=", "--data_path = ").encode(),
    ],
)
def test_encodings_line_ends_and_quotation_marks_of_all_systems_are_read(tmp_path, content):
    path = tmp_path / "a.flags"
    path.write_bytes(content)
    assert texts(f"--flagfile={path}") == texts("--flagfile", str(path)) == ARGUMENTS


@pytest.mark.parametrize(
    "value", ["", " ", " a ", '"a"', "'", '""', "'a", "a\\b", "#x", "[x]", "a\u2028b", "\u00a0a", "é=é"]
)
def test_every_value_comes_back_from_a_flagfile(tmp_path, value):
    path = tmp_path / "a.flags"
    path.write_text(f"--run_dir={flagfiles.quoted(value)}\n", encoding="utf-8")
    assert texts(f"--flagfile={path}") == [f"--run_dir={value}"]


def test_a_flagfile_inside_another_is_found_from_anywhere(tmp_path, monkeypatch):
    inner = tmp_path / "configs" / "base"
    inner.mkdir(parents=True)
    (inner / "small.flags").write_text("--data.batch_size=3\n")
    (inner / "both.flags").write_text("--flagfile=small.flags\n--device=cpu\n")
    (tmp_path / "configs" / "top.flags").write_text('--flagfile="base/both.flags"\n--training.epochs=2\n')
    expected = ["--data.batch_size=3", "--device=cpu", "--training.epochs=2"]
    assert texts(f"--flagfile={tmp_path}/configs/top.flags") == expected
    monkeypatch.chdir(tmp_path / "configs")
    assert texts("--flagfile=top.flags") == expected
    monkeypatch.chdir("/")
    assert texts("--flagfile", f"{tmp_path}/configs/top.flags", "--", "--flagfile=x") == [
        *expected,
        "--",
        "--flagfile=x",
    ]


def test_a_path_from_the_working_directory_comes_before_one_from_the_files_folder(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "base.flags").write_text("--data.batch_size=1\n")
    (tmp_path / "configs" / "base.flags").write_text("--data.batch_size=2\n")
    (tmp_path / "configs" / "top.flags").write_text("--flagfile=base.flags\n")
    monkeypatch.chdir(tmp_path)
    assert texts("--flagfile=configs/top.flags") == ["--data.batch_size=1"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"--device=cpu\ndevice: cuda\n", r"a\.flags, line 2: 'device: cuda' is no flag; a line reads --name=value"),
        (b"--flagfile=a.flags\n", r"a\.flags: a flagfile that names itself"),
        (b"--flagfile=b.flags\n", r"cannot read the flagfile .*b\.flags: no such file"),
        (b"\x7f\xff\x00", r"a\.flags, it is not text in UTF-8 or UTF-16"),
        (codecs.BOM_UTF16_LE + b"-\x00\x00", r"a\.flags, it is not text in UTF-8 or UTF-16"),
    ],
)
def test_what_is_no_flagfile_ends_with_its_name(tmp_path, monkeypatch, content, expected):
    monkeypatch.chdir(tmp_path)
    Path("a.flags").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        texts("--flagfile=a.flags")


def test_where_a_value_comes_from_is_decided_by_the_last_one(tmp_path):
    path = tmp_path / "a.flags"
    path.write_text("--a=1\n--nob\n--c=1\n--unknown=1\n")
    given = list(flagfiles.expanded(["--c=0", f"--flagfile={path}", "--a", "2", "--d=1", "--", "--b"]))
    assert flagfiles.sources(given, ["a", "b", "c", "d"]) == {"b": path, "c": path}


def parse(*arguments):
    """The configuration of a command line of ``launch.train``."""
    flags.define()
    with flagsaver.flagsaver():
        flags.parse(["train", *arguments])
        return flags.config_from_flags()


def stored(tmp_path, **data):
    """The flags.txt of a run whose global batch is 8."""
    path = tmp_path / "flags.txt"
    cfg = Config(
        data=DataConfig(batch_size=8, global_batch_size=8), optim=OptimConfig(schedule="one_cycle", warmup=0.2)
    )
    path.write_text(flags.flagfile_text(cfg))
    return f"--flagfile={path}"


def test_what_is_typed_wins_over_what_a_run_made_from_its_flags(tmp_path):
    file = stored(tmp_path)
    for arguments, expected in (
        ([file], (8, 8)),
        ([file, "--data.batch_size=20"], (20, 0)),
        (["--data.batch_size=20", file], (8, 8)),  # the later one
        ([file, "--data.batch_size=20", "--data.global_batch_size=40"], (20, 40)),
        ([file, "--training.epochs=3"], (8, 8)),
    ):
        data = parse(*arguments).data
        assert (data.batch_size, data.global_batch_size) == expected


def test_a_flagfiles_flag_may_lose_its_effect_to_what_is_typed_but_not_by_itself(tmp_path):
    file = stored(tmp_path)
    assert parse(file, "--optim.schedule=constant").optim.schedule == "constant"
    with pytest.raises(InputError, match=r"--optim\.warmup needs --optim\.schedule=noam or one_cycle or cosine"):
        parse(file, "--optim.schedule=constant", "--optim.warmup=0.2")
    path = Path(file.partition("=")[2])
    path.write_text(path.read_text().replace("--optim.momentum=0.9", "--optim.momentum=0.8"))  # of another version
    assert parse(file).optim.momentum == 0.8
    (tmp_path / "wrong.flags").write_text("--optim.schedule=constant\n--optim.warmup=0.2\n--optim.momentum=0.9\n")
    with pytest.raises(InputError, match=r"--optim\.warmup needs"):
        parse(f"--flagfile={tmp_path}/wrong.flags")
