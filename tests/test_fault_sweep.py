"""Every system call by which a training writes fails once: the training ends with the bits of another one, or in order.

The short sweep takes some calls of every kind. The whole one takes about half an hour on two idle cores:

    launch/test.sh -m long tests/test_fault_sweep.py -n 2
"""

import itertools

import pytest
from faults import ERRORS, FaultyCommands, clear
from killing import bits, last_checkpoint, timeless
from test_faults import CONTINUE, TONES

EPOCHS = "--training.epochs=3"  # the third checkpoint lets the first one go
SHORT = 14  # runs of the short sweep
PARTS = 8  # of the whole sweep


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    found = FaultyCommands(tmp_path_factory.mktemp("faults"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def arguments(tone_corpus):
    return (*TONES, EPOCHS, f"--data_path={tone_corpus}", "--run_dir=run")


@pytest.fixture(scope="module")
def undisturbed(faulty, arguments, tmp_path_factory):
    """The folder of a training that nothing disturbs, and its calls."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended, sites = faulty.trace("train", *arguments, folder=folder)
    assert ended.status == 0, ended.err
    return folder, sites


def same_end(one, other):
    (leaves, position), (other_leaves, other_position) = last_checkpoint(one), last_checkpoint(other)
    same = all(bits(leaf) == bits(other_leaves[path]) for path, leaf in leaves.items())
    return same and timeless(position) == timeless(other_position)


def problem(faulty, arguments, undisturbed, folder, site, error):
    """What is wrong with a training of which a call fails; empty if nothing is."""
    clear(folder)
    ended = faulty.run("train", *arguments, folder=folder, site=site, error=error)
    first = f"status {ended.status}\n{ended.err}{ended.out[-2000:]}"
    told = [line for line in ended.err.splitlines() if not line.startswith(("wrote run/", "Next:", "  python -m "))]
    if "Traceback" in ended.err + ended.out or ended.status not in (0, 1) or len(told) > 1:
        return first
    if ended.status:  # in order, so that it can go on
        ended = faulty.run("train", *arguments, CONTINUE, folder=folder, site=site._replace(number=0), error=error)
        if ended.status or "Traceback" in ended.err + ended.out:
            return f"{first}\nthen status {ended.status}\n{ended.err}{ended.out}"
    if not (folder / "run" / "results.json").exists():
        return f"no results\n{first}"
    return "" if same_end(undisturbed, folder / "run") else f"other bits\n{first}"


def problems(faulty, arguments, undisturbed, folder, faults):
    found = []
    for site, error in faults:
        if said := problem(faulty, arguments, undisturbed, folder, site, error):
            found.append(f"{site.call} {site.file} number {site.number} with {error}: {said}")
    return found


def test_the_injection_reaches_every_file_that_a_training_writes(undisturbed):
    files = {site.kind[1] for site in undisturbed[1]}
    names = ["log.txt", "metrics.jsonl", "lease.json", *(f".{name}.*.tmp" for name in ("config.json", "flags.txt"))]
    assert {".out", ".err", *(f"run/{name}" for name in names)} <= files
    calls = {"open", "write", "fsync", "close", "rename", "link", "mkdir", "remove"}
    assert {site.call for site in undisturbed[1]} >= calls


def test_a_call_that_fails_at_times_leaves_the_bits_or_ends_in_order(faulty, arguments, undisturbed, tmp_path):
    folder, sites = undisturbed
    kinds = list({site.kind: site for site in sites}.values())  # the last of each kind
    step = len(kinds) / SHORT
    chosen = [kinds[int(index * step)] for index in range(SHORT)]
    faults = zip(chosen, itertools.cycle(ERRORS), strict=False)
    assert problems(faulty, arguments, folder / "run", tmp_path / "faulty", faults) == []


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_every_call_that_fails_once_leaves_the_bits_or_ends_in_order(faulty, arguments, undisturbed, tmp_path, part):
    folder, sites = undisturbed
    first = {site.kind: site for site in reversed(sites)}.values()
    faults = [(site, error) for site in first for error in ERRORS]  # every kind of call with every error
    faults += zip(sites, itertools.cycle(ERRORS), strict=False)  # and every call with one
    mine = list(dict.fromkeys(faults))[part::PARTS]
    assert problems(faulty, arguments, folder / "run", tmp_path / "faulty", mine) == []
