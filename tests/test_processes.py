"""The processor count on fake cgroup trees and real affinities, and children that end with their parent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ds2f import processes
from ds2f.runner.device import backend

ROOT = Path(__file__).parents[1]
V1, V2 = "cgroup", "cgroup2"


@pytest.fixture(autouse=True)
def _sixty_four_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def fake(tmp_path, kind, quotas, *, group, root="/", mounted="cgroups"):
    """A procfs folder of a process in ``group``; ``quotas`` by folder below the mount, each in microseconds."""
    mount, proc = tmp_path / mounted, tmp_path / "proc"
    for folder, (quota, period) in quotas.items():
        place = mount / folder
        place.mkdir(parents=True, exist_ok=True)
        if kind == V2:
            (place / "cpu.max").write_text(f"{quota} {period}\n")
        else:
            (place / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (place / "cpu.cfs_period_us").write_text(f"{period}\n")
    proc.mkdir()
    point = str(mount).replace(" ", r"\040")
    mounts = {
        V2: f"31 23 0:28 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
        V1: f"31 23 0:28 {root} {point} rw,nosuid shared:4 master:1 - cgroup cgroup rw,cpu,cpuacct\n"
        f"32 23 0:29 / {tmp_path}/memory rw,nosuid - cgroup cgroup rw,memory\n",
    }
    (proc / "mountinfo").write_text(f"23 1 8:1 / / rw - ext4 /dev/sda1 rw,discard\n{mounts[kind]}")
    lines = {V2: f"0::{group}\n", V1: f"12:memory:/elsewhere\n4:cpu,cpuacct:{group}\n1:name=systemd:/init\n0::/init\n"}
    (proc / "cgroup").write_text(lines[kind])
    return proc


@pytest.mark.parametrize("kind", [V1, V2])
@pytest.mark.parametrize(("quota", "count"), [(200_000, 2), (150_000, 2), (100_000, 1), (50_000, 1), (10**8, 64)])
def test_a_containers_quota_counts_and_part_of_a_processor_counts_as_one(tmp_path, kind, quota, count):
    assert processes.cpu_count(fake(tmp_path, kind, {"": (quota, 100_000)}, group="/")) == count


@pytest.mark.parametrize(("kind", "unlimited"), [(V1, -1), (V2, "max")])
def test_no_quota_leaves_the_affinity(tmp_path, kind, unlimited):
    assert processes.cpu_count(fake(tmp_path, kind, {"": (unlimited, 100_000)}, group="/")) == 64


@pytest.mark.parametrize("kind", [V1, V2])
def test_the_lowest_quota_of_a_group_and_those_above_it_counts(tmp_path, kind):
    own, above, other = (800_000, 100_000), (300_000, 100_000), (100_000, 100_000)
    proc = fake(tmp_path, kind, {"pod/box": own, "pod": above, "pod/box/inner": other, "pod2": other}, group="/pod/box")
    assert processes.cpu_count(proc) == 3


@pytest.mark.parametrize("kind", [V1, V2])
def test_a_mount_may_begin_at_the_containers_own_group(tmp_path, kind):
    group = "/docker/0123"
    assert processes.cpu_count(fake(tmp_path, kind, {"": (200_000, 100_000)}, group=group, root=group)) == 2


@pytest.mark.parametrize("group", ["/../other", "/host/only"])
def test_a_group_that_the_mount_does_not_show_leaves_the_mounts_quota(tmp_path, group):
    root = "/" if ".." in group else "/docker"
    proc = fake(tmp_path, V2, {"": (200_000, 100_000), "../other": (100_000, 100_000)}, group=group, root=root)
    assert processes.cpu_count(proc) == 2


def test_a_mount_point_may_have_spaces(tmp_path):
    proc = fake(tmp_path, V2, {"": (200_000, 100_000)}, group="/", mounted="two words")
    assert processes.cpu_count(proc) == 2


def test_without_procfs_or_limits_the_affinity_counts(tmp_path):
    assert processes.cpu_count(tmp_path / "nothing") == 64
    (tmp_path / "cgroups").mkdir()
    assert processes.cpu_count(fake(tmp_path, V2, {}, group="/")) == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_the_count_follows_the_affinity_of_the_process():
    code = (
        "import os; from ds2f.processes import cpu_count; first = min(os.sched_getaffinity(0));"
        "print(cpu_count() <= len(os.sched_getaffinity(0))); os.sched_setaffinity(0, {first}); print(cpu_count())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "1"]


@pytest.mark.parametrize(("users", "quota", "threads"), [(None, 2, 2), (None, 64, 3), ("3", 2, 3)])
def test_torch_takes_no_more_threads_than_a_quota_allows_unless_the_user_says_so(monkeypatch, users, quota, threads):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if users:
        monkeypatch.setenv("OMP_NUM_THREADS", users)
    monkeypatch.setattr(backend, "cpu_count", lambda: quota)
    try:
        torch.set_num_threads(3)
        backend.open_backend("cpu")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_child_dies_with_its_parent():
    child = "import os, time; from ds2f.processes import die_with_parent; die_with_parent(os.getppid());"
    child += "print('begun', flush=True); time.sleep(10); print('outlived')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "begun\n"
    parent.kill()
    assert parent.stdout.read() == "", "the child's end of the pipe closes without another word"
    parent.wait()
    parent.stdout.close()


def test_a_child_whose_parent_has_ended_already_ends_at_once():
    code = "from ds2f.processes import die_with_parent; die_with_parent(1 << 30); print('alive')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
