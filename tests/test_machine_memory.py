"""Memory that is left and kills for want of it, on fake trees of cgroup v1 and v2, and in a real cgroup."""

import resource
import subprocess
import sys

import pytest
from memory_groups import limited

from ds2f import machine_memory
from ds2f.machine_memory import OomKills, rooms

V1, V2 = 1, 2
NO_LIMIT = {V1: str(2**63 - 4096), V2: "max"}
FILES = {V1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), V2: ("memory.max", "memory.current")}
GB = 10**9


@pytest.fixture(autouse=True)
def _no_limits_of_its_own(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def proc(tmp_path):
    """A procfs with 20 GB available and no kill so far; ``grouped`` adds a process's cgroups."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(f"MemTotal:  30000000 kB\nMemAvailable:   {20 * GB // 1024} kB\nHugePages: 0\n")
    (folder / "vmstat").write_text("pgfault 77\noom_kill 3\n")
    (folder / "self" / "status").write_text(
        "Name:\tVmSize: 5\nVmSize:\t  3000 kB\nVmData:\t 1000 kB\nRssAnon:\t 250 kB\n"
    )
    return folder


def grouped(proc, version, groups, *, own="/pod/box"):
    """Puts the process into ``own``; ``groups`` by folder: limit (None: none), use and cached files, bytes."""
    mount = proc.parent / "cgroups"
    for name, (limit, used, cached) in groups.items():
        folder = mount / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, value in zip(FILES[version], (NO_LIMIT[version] if limit is None else limit, used), strict=True):
            (folder / file).write_text(f"{value}\n")
        prefix = "total_" if version == V1 else ""
        caches = {"inactive_file": cached // 2, "active_file": cached - cached // 2}
        stat = "".join(f"{prefix}{name} {size}\n" for name, size in caches.items())
        (folder / "memory.stat").write_text(f"anon 5\n{stat}")
        counter = {V1: "memory.oom_control", V2: "memory.events"}[version]
        (folder / counter).write_text("oom_kill_disable 0\noom_kill 4\n" if version == V1 else "oom 9\noom_kill 4\n")
    kind = {V1: "cgroup cgroup rw,memory", V2: "cgroup2 cgroup2 rw"}[version]
    (proc / "self" / "mountinfo").write_text(f"31 23 0:28 / {mount} rw,nosuid - {kind}\n")
    (proc / "self" / "cgroup").write_text(f"{'4:memory' if version == V1 else '0:'}:{own}\n")
    return mount


def test_without_cgroups_the_machine_is_the_limit(proc):
    (room,) = rooms(proc)
    assert (room.where, room.left, room.per_process) == ("this machine", 20 * GB, False)
    assert machine_memory.held(proc) == 250 * 1024


@pytest.mark.parametrize("version", [V1, V2])
def test_every_group_up_to_the_mount_limits_and_its_cached_files_count_as_left(proc, version):
    groups = {
        "pod/box": (8 * GB, 5 * GB, 2 * GB),
        "pod": (6 * GB, 5 * GB, 0),
        "": (None, 9 * GB, 0),
        "other": (1, 1, 0),
    }
    mount = grouped(proc, version, groups)
    left = {room.where: room.left for room in rooms(proc)[1:]}
    assert left == {f"the cgroup {mount}/pod/box": 5 * GB, f"the cgroup {mount}/pod": GB}


@pytest.mark.parametrize("version", [V1, V2])
def test_a_group_beyond_its_limit_has_nothing_left(proc, version):
    grouped(proc, version, {"pod/box": (GB, 2 * GB, 0)})
    assert rooms(proc)[1].left == 0


def test_the_limits_of_a_process_hold_for_each_process_alone(proc, monkeypatch):
    limits = {resource.RLIMIT_AS: 5000 * 1024, resource.RLIMIT_DATA: 1500 * 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], -1))
    found = [(room.where, room.left, room.per_process) for room in rooms(proc)[1:]]
    assert found == [("a process (ulimit -v)", 2000 * 1024, True), ("a process (ulimit -d)", 500 * 1024, True)]


def test_nothing_is_known_where_there_is_no_procfs(tmp_path):
    assert rooms(tmp_path) == []
    assert machine_memory.held(tmp_path) == 0
    assert OomKills(tmp_path).sign() == (False, "the kernel does not tell")


@pytest.mark.parametrize("version", [V1, V2])
def test_the_counter_of_the_own_group_decides(proc, version):
    mount = grouped(proc, version, {"pod/box": (GB, 0, 0), "pod": (GB, 0, 0)})
    kills = OomKills(proc)
    (proc / "vmstat").write_text("oom_kill 8\n")  # of another process of the machine
    counter = {V1: "memory.oom_control", V2: "memory.events"}[version]
    (mount / "pod" / counter).write_text("oom_kill 5\n")  # of another group
    assert kills.sign() is None
    (mount / "pod/box" / counter).write_text("oom_kill 5\n")
    assert kills.sign() == (True, f"oom_kill in {mount}/pod/box/{counter} rose")


def test_the_counter_of_the_machine_is_a_hint_where_the_group_has_none(proc):
    kills = OomKills(proc)
    assert kills.sign() is None
    (proc / "vmstat").write_text("oom_kill 4\n")
    assert kills.sign() == (False, f"oom_kill in {proc}/vmstat rose")


def test_a_real_group_has_what_its_limit_leaves_and_counts_its_kills():
    code = (
        "import os, subprocess, sys\n"
        "open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from ds2f import machine_memory\n"
        "room = min(machine_memory.rooms(), key=lambda room: room.left)\n"
        "kills = machine_memory.OomKills()\n"
        "quiet = subprocess.run(['sh', '-c', 'kill -9 $$']).returncode, kills.sign()\n"
        "loud = subprocess.run([sys.executable, '-c', 'bytearray(1 << 30)']).returncode, kills.sign()\n"
        "print(room.where, room.left, *quiet, *loud, sep='\\n')\n"
    )
    with limited(200 << 20) as folder:
        command = [sys.executable, "-c", code, str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        where, left, *told = ended.stdout.splitlines()
        assert where == f"the cgroup {folder}"
        assert 150 << 20 < int(left) <= 200 << 20
        assert told[:3] == ["-9", "None", "-9"]
        assert told[3].startswith(f"Kill(certain=True, sign='oom_kill in {folder}/memory.")
