"""The command launch.doctor: its report on this CPU, its width, its bundle, and checks that crash or hang."""

import getpass
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ds2f import config
from ds2f.config import Config
from ds2f.runner.device import inspection
from launch.doctor import isolation, terminal_report
from launch.doctor.all_checks import checks
from launch.doctor.verdict import MISSING, OK, SLOW, WRONG, Line, passed, summary

ROOT = Path(__file__).parents[2]
TINY = ("--device=cpu", "--model.hidden_size=16", "--model.hidden_layers=1")


def test_this_cpu_is_checked_whole(launch, tmp_path):
    ended = launch("doctor", *TINY, "--json=doctor.json", folder=tmp_path)
    assert ended.status == 0, ended.out + ended.err
    assert max(map(len, ended.out.splitlines())) <= 80
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert report["passed"]
    assert report["summary"] in " ".join(ended.out.split())
    begun = {check.name for check in checks()}
    told = {line["name"] for line in report["lines"]}
    assert len(told) > 35
    assert {name for name in begun if not any(name.partition(" ")[0] in each for each in told)} <= {
        *("libraries", "driver", "cards", "matrix products"),  # of other names, or nothing on a CPU
        *("all-reduce", "real size", "small, auto"),
    }
    assert {"gloo, 2 ranks", "lstm fp32, func", "ctc native", "ctc scan", "same bits", "bad step"} <= told
    assert not [line for line in report["lines"] if line["verdict"] == WRONG]
    text = json.dumps(report)
    assert str(tmp_path) not in text
    assert socket.gethostname() not in text
    assert not list(tmp_path.glob(".ds2f-doctor*")), "nothing stays in the run folder"


def test_help_needs_no_torch(launch, tmp_path):
    program = "import sys, launch.doctor.__main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert "--run_dir" in launch("doctor", "--help", folder=tmp_path).out


def test_a_mistake_is_told_before_any_check(launch, tmp_path):
    ended = launch("doctor", "--json=/nowhere/at/all.json", folder=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert "give a file in a folder that exists" in ended.err


def line(verdict, **changes):
    return Line("operators", "lstm fp16, autograd", verdict, "found", "--model.kernel=scan")._replace(**changes)


@pytest.mark.parametrize("verdict", [OK, SLOW, WRONG, MISSING])
@pytest.mark.parametrize("needed", [True, False])
def test_only_what_a_training_needs_decides_the_status(verdict, needed):
    lines = [line(OK), line(verdict, needed=needed)]
    assert passed(lines) == (not needed or verdict in (OK, SLOW))
    assert ("--model.kernel=scan" in summary(lines)) == (not passed(lines))
    assert f"{1 + (verdict == OK)} {verdict}" in summary(lines)


def test_nothing_checked_is_no_pass():
    assert not passed([])
    assert summary([]) == "nothing was checked"


def test_the_table_and_the_bundle_fit_and_show_no_control_characters():
    long = line(WRONG, name="n" * 200, found="a\x1b[31mb " * 40 + "/" + "x" * 200, remedy="y" * 300)
    printed = terminal_report.rows(long) + terminal_report.bundle({"torch": "2" * 200}, [long])
    assert max(map(len, printed)) <= 80
    assert "\x1b" not in "".join(printed)
    assert all(text.startswith("    ") for text in terminal_report.bundle({"torch": "2"}, [long]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no lock in /home/ann/runs/x.lock: denied", "no lock in PATH: denied"),
        ("~/runs/a/b is full", "PATH is full"),
        ("connect to 10.1.2.3:29500 failed", "connect to ADDRESS failed"),
        ("fe80::1ff:fe23:4567:890a is down", "ADDRESS is down"),
        ("File '/usr/lib/libhccl.so' is missing", "File 'PATH' is missing"),
        ("see https://pytorch.org/get-started, not /a", "see https://pytorch.org/get-started, not PATH"),
        ("forward 1e-07, gradient 2e-07; 1/2", "forward 1e-07, gradient 2e-07; 1/2"),
        ("/dev/shm: 64 MB free, docker run --shm-size=8g", "/dev/shm: 64 MB free, docker run --shm-size=8g"),
    ],
)
def test_the_bundle_names_no_paths_and_addresses(text, expected):
    assert terminal_report.anonymous(text) == expected


def test_the_bundle_names_no_hosts_and_users(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node17.lab.example")
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    said = terminal_report.anonymous("rank 1 (host node17.lab.example) of annabel on node17; annabels")
    assert said == "rank 1 (host NAME) of NAME on NAME; annabels"


def isolated(monkeypatch, *names):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import doctor_stand_ins; "
    code += f"doctor_stand_ins.main({(*names, 'good')!r})"
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shown = []
    lines = isolation.run(config.resolve(Config(device="cpu")), shown.append)
    assert shown == lines
    return lines


def test_a_check_that_crashes_hangs_or_fails_is_a_verdict_and_the_rest_goes_on(monkeypatch):
    failed, crashed, hung, left, fine = isolated(monkeypatch, "bad", "crash", "hang", "leave")
    assert (failed.name, failed.verdict, failed.found) == ("0 bad", WRONG, "fails: first line")
    assert (crashed.name, crashed.verdict) == ("1 crash", WRONG)
    assert crashed.found.startswith("it crashes: killed by SIGSEGV")
    assert hung.found == "it hangs: no answer within 1 s"
    assert left.found == "it crashes: status 3, after: CANN says goodbye"
    assert fine.verdict == OK
    assert {each.remedy for each in (failed, crashed, hung, left)} == {"a flag"}


def test_after_five_checks_that_crash_the_rest_is_not_checked(monkeypatch):
    *crashed, rest = isolated(monkeypatch, *["crash"] * 6)
    assert [line.name for line in crashed] == [f"{index} crash" for index in range(5)]
    assert (rest.name, rest.verdict) == ("the rest", WRONG)
    assert rest.found == "not checked: 5 checks have crashed or hung"


def test_a_device_whose_opening_hangs_ends_the_checks(monkeypatch):
    fine, hung = isolated(monkeypatch, "good", "gate", "crash")
    assert (fine.verdict, hung.name, hung.found) == (OK, "1 gate", "it hangs: no answer within 1 s")


def test_a_process_that_cannot_start_ends_the_report(monkeypatch):
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", "raise SystemExit('torch does not load')"))
    (found,) = isolation.run(config.resolve(Config(device="cpu")), lambda _: None)
    assert (found.name, found.verdict) == ("start of the checks", WRONG)
    assert "torch does not load" in found.found
    assert not passed([found])


@pytest.mark.parametrize("device", ["cuda", "npu"])
def test_a_device_that_is_not_there_is_told_with_remedies_in_80_columns(launch, tmp_path, device):
    if inspection.likely_kind("auto") == device:
        pytest.skip("it is there")
    ended = launch("doctor", f"--device={device}", folder=tmp_path)
    assert ended.status == 1
    assert max(map(len, ended.out.splitlines())) <= 80
    assert f"  {device:27} missing" in ended.out
    assert "operators" not in ended.out
    assert "/dev/shm" in ended.out, "the machine is checked all the same"
    assert "To paste into a bug report" in ended.out
