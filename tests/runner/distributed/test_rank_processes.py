"""Why a rank ended reaches the last line of its agent, whatever ended it and whenever."""

import os
import re
import signal
import sys
import time

import pytest
from agents import Agent
from waiting import wait_for

from ds2f.errors import InputError
from ds2f.processes import STOPPED, state
from ds2f.runner.distributed import rank_processes


@pytest.mark.parametrize(
    ("when", "mischief", "told"),
    [
        ("MISCHIEF", "{}['nothing']", r"ended with status 1: KeyError: 'nothing' \(mischief:2\)"),
        ("EARLY", "raise RuntimeError('a reason\\nand more')", r"ended with status 1: RuntimeError: a reason \("),
        (
            "EARLY",
            "import no_such_module",
            "ended with status 1: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("MISCHIEF", "sys.exit('a reason')", "ended with status 1: a reason"),
        ("EARLY", "os.write(2, b'no line end'); os._exit(3)", "ended with status 3; its last line was: no line end"),
        ("MISCHIEF", "os._exit(3)", "ended with status 3 and said nothing"),
        ("MISCHIEF", "os.write(2, b'  what():  of C++\\nframe #0\\n'); os.abort()", r"was killed by SIGABRT: of C\+\+"),
        ("MISCHIEF", "os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("MISCHIEF", "raise worker.WorkerDied('a loader died')", "ended with status 1: a loader died"),
    ],
)
def test_the_last_line_of_the_agent_says_why_a_rank_ended(tmp_path, when, mischief, told):
    rank = "job.local_rank" if when == "EARLY" else "group.rank"
    program = f"if {rank} == 1 and {'True' if when == 'EARLY' else 'step == 2'}:\n    {mischief}"
    ours = Agent.of_toys(tmp_path, nproc_per_node=2, max_restarts=0, variables={when: program})
    assert ours.end() == 1
    last = ours.output.splitlines()[-1]
    assert re.fullmatch(rf"toy: rank 1 of 2 \(process \d+\) {told}.*\.", last), ours.output


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("raise ImportError('libtorch.so: no such file')", "ImportError: libtorch.so: no such file"),
        ("x = = 1", "SyntaxError: invalid syntax"),
    ],
)
def test_a_rank_that_fails_before_it_knows_of_its_agent_is_explained_by_its_last_line(tmp_path, line, told):
    script = tmp_path / "rank.py"
    script.write_text(line)
    rank = rank_processes.start(
        [sys.executable, str(script)],
        rank=0,
        local_rank=0,
        local_ranks=1,
        address="127.0.0.1",
        variables={},
        reports=tmp_path,
    )
    rank.process.wait(20)
    assert rank.describe_failure(1) == (
        f"rank 0 of 1 (process {rank.process.pid}) ended with status 1; its last line was: {told}"
    )


@pytest.mark.parametrize("report", ["", "[]", '{"message": ["a", "b"'])
def test_a_report_that_is_none_does_not_end_the_agent(tmp_path, report):
    program = f"open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write({report!r})\nos._exit(78)"
    ours = Agent.of_toys(tmp_path, nproc_per_node=2, variables={"EARLY": program})
    assert ours.end() == 1
    assert "ended with status 78 and said nothing" in ours.output.splitlines()[-1]


def test_a_command_that_cannot_be_started_is_named(tmp_path):
    with pytest.raises(InputError, match=r"rank 1 could not be started: No such file or directory \(/no/such/python\)"):
        rank_processes.start(
            ["/no/such/python"],
            rank=1,
            local_rank=1,
            local_ranks=2,
            address="127.0.0.1",
            variables={},
            reports=tmp_path,
        )


@pytest.fixture
def sleeping(tmp_path):
    """Starts ranks that sleep, and leaves none."""
    ranks = []

    def start(*numbers):
        for number in numbers:
            ranks.append(
                rank_processes.start(
                    ["sleep", "60"],
                    rank=number,
                    local_rank=number,
                    local_ranks=2,
                    address="127.0.0.1",
                    variables={},
                    reports=tmp_path,
                )
            )
        return ranks

    yield start
    rank_processes.kill(ranks)


@pytest.mark.parametrize(("number", "told"), [(0, "the steps since the last checkpoint are lost"), (1, "")])
def test_the_only_rank_of_a_machine_is_killed_when_it_is_stopped_after_a_request(
    sleeping, monkeypatch, capsys, number, told
):
    monkeypatch.setattr(rank_processes, "STRAGGLING", 0.5)
    (rank,), stragglers = sleeping(number), rank_processes.Stragglers()
    stop(rank)
    stragglers.look([rank])
    assert rank.status is None
    time.sleep(0.6)
    stragglers.look([rank])
    assert rank.status == -signal.SIGKILL
    assert told in capsys.readouterr().err


def test_ranks_that_run_are_waited_for_until_one_ends_and_rank_0_beyond(sleeping, monkeypatch):
    monkeypatch.setattr(rank_processes, "STRAGGLING", 0.5)
    ranks, stragglers = sleeping(0, 1, 2, 3), rank_processes.Stragglers()

    def look():
        stragglers.look(ranks)
        return [rank.status for rank in ranks]

    look()
    time.sleep(0.6)
    assert look() == [None] * 4
    rank_processes.kill(ranks[3:])
    stop(ranks[2])
    assert look() == [None, None, -signal.SIGKILL, -signal.SIGKILL]
    time.sleep(0.6)
    assert look() == [None, -signal.SIGKILL, -signal.SIGKILL, -signal.SIGKILL]


def stop(rank):
    os.kill(rank.process.pid, signal.SIGSTOP)
    assert wait_for(lambda: state(rank.process.pid) in STOPPED)
