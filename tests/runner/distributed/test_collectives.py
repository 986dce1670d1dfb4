"""Collectives over real processes: all-reduce, gradients, bits, votes, and the message when a rank is lost."""

import logging
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from job import CPU, environment, free_port, run, start

from ds2f import tree
from ds2f.errors import InputError
from ds2f.grad import value_and_grad
from ds2f.runner.distributed import collectives, heartbeat, job_store, process_group
from ds2f.runner.distributed.collectives import ALONE, open_group
from ds2f.runner.distributed.job_store import PeerLost

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32, torch.int64]
WIDE = [torch.float32, torch.float64]
ENGINES = ["func", "autograd"]


def all_reduce_all_dtypes(group):
    buffers = [torch.arange(5).to(dtype) * (group.rank + 1) for dtype in DTYPES]
    handles = [group.all_reduce_async(buffer) for buffer in buffers]
    for handle in handles:
        handle.wait()
    return buffers


def test_all_reduce_is_in_place_in_every_dtype_and_several_may_be_under_way(tmp_path):
    for buffers in run(all_reduce_all_dtypes, ranks=3, folder=tmp_path):
        for buffer, dtype in zip(buffers, DTYPES, strict=True):
            assert torch.equal(buffer, (torch.arange(5) * 6).to(dtype))


def refused_buffer(group):
    with pytest.raises(ValueError, match="contiguous"):
        group.all_reduce_async(torch.zeros(3, 2).T)
    return group.sum([1.0])


def test_a_buffer_with_gaps_is_refused_and_the_group_goes_on(tmp_path):
    assert run(refused_buffer, ranks=2, folder=tmp_path) == [[2.0], [2.0]]


def gradient_of_an_all_reduce(group, engine, dtype):
    x = torch.tensor([0.5, -1.0, 2.0], dtype=dtype) * (group.rank + 1)
    copy = x.clone()

    def loss(params):
        y = group.all_reduce(params)
        return (group.rank + 1) * (y**3).sum(), y

    (value, y), grad = value_and_grad(loss, has_aux=True, engine=engine)(x)
    assert torch.equal(x, copy)
    return value, y, grad


def gradients_of_all_reduces(group):
    return {(engine, dtype): gradient_of_an_all_reduce(group, engine, dtype) for engine in ENGINES for dtype in WIDE}


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    return run(gradients_of_all_reduces, ranks=3, folder=tmp_path_factory.mktemp("gradients"))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_gradient_of_an_all_reduce_is_the_sum_of_all_ranks_cotangents(gradients, engine, dtype):
    y = 6 * torch.tensor([0.5, -1.0, 2.0], dtype=dtype)
    # The job's loss is sum_r r * sum(y**3), so dx = sum_r r * 3 * y**2 on every rank.
    for rank, results in enumerate(gradients):
        value, total, grad = results[engine, dtype]
        torch.testing.assert_close(total, y)
        torch.testing.assert_close(value, (rank + 1) * (y**3).sum())
        torch.testing.assert_close(grad, 6 * 3 * y**2)


def verdicts_and_votes(group):
    verdicts = [bool(group.all_finite(torch.tensor(rank != group.rank))) for rank in (None, 1)]
    votes = [group.vote(group.rank == rank) for rank in (None, 2)]
    return verdicts, [vote.result() for vote in votes] + [votes[1].result()]


def test_one_rank_decides_every_ranks_verdict_by_no_and_every_ranks_vote_by_yes(tmp_path):
    assert run(verdicts_and_votes, ranks=3, folder=tmp_path) == [([True, False], [False, True, True])] * 3


def vote_while_another_sleeps(group):
    group.gather(None)
    started = time.monotonic()
    if group.rank == 1:
        time.sleep(0.6)
    vote = group.vote(group.rank == 1)
    asked = time.monotonic() - started
    return vote.result(), asked, time.monotonic() - started


def test_a_vote_does_not_wait_until_its_result_is_asked_for(tmp_path):
    (first, asked, answered), (second, *_) = run(vote_while_another_sleeps, ranks=2, folder=tmp_path)
    assert first
    assert second
    assert asked < 0.3
    assert answered > 0.5


def host_numbers_and_objects(group):
    return group.sum([group.rank, 2.0**-40, 1e15]), group.gather({"rank": group.rank, "text": "ä" * group.rank})


def test_host_numbers_add_up_in_double_precision_and_objects_come_in_the_order_of_the_ranks(tmp_path):
    for sums, objects in run(host_numbers_and_objects, ranks=3, folder=tmp_path):
        assert sums == [3.0, 3 * 2.0**-40, 3e15]
        assert objects == [{"rank": rank, "text": "ä" * rank} for rank in range(3)]


class State(NamedTuple):
    step: torch.Tensor
    params: dict


def bits(integers, dtype):
    return torch.tensor(integers, dtype={2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]).view(dtype)


def some_state():
    generator = torch.Generator().manual_seed(3)
    return State(
        step=torch.tensor(2**62 + 1),
        params={
            "nan": [
                bits([0x7FC00001, 0x7F800001, -0x3FFFFF, 0], torch.float32),
                bits([0x7FF8000000000123, 0x7FF0000000000001], torch.float64),
                bits([0x7FC1, 0x7F81, -1, 1], torch.bfloat16),
                bits([0x7E01, 0x7C01], torch.float16),
            ],
            "negative_zero": torch.tensor(-0.0),
            "flags": torch.tensor([True, False, True]),
            "empty": torch.empty(0, 3),
            "transposed": torch.randn(7, 5, generator=generator).T,
            "large": torch.randn(300, generator=generator),
            "many": [torch.randn(3, generator=generator) for _ in range(200)],
        },
    )


def raw(leaf):
    return leaf.dtype, tuple(leaf.shape), leaf.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def broadcast_of_a_state(group, message_bytes):
    collectives.MESSAGE_BYTES = message_bytes or collectives.MESSAGE_BYTES
    state = some_state()
    mine = state if group.rank == 0 else tree.map(torch.zeros_like, state)
    before, messages, send = tree.map(torch.clone, mine), [], dist.broadcast
    dist.broadcast = lambda buffer, **options: (messages.append(buffer.nbytes), send(buffer, **options))[1]
    received = group.broadcast(mine)
    assert [raw(leaf) for leaf in tree.leaves(mine)] == [raw(leaf) for leaf in tree.leaves(before)]
    assert type(received) is State
    assert group.broadcast({"nothing": []}) == {"nothing": []}
    return [raw(leaf) for leaf in tree.leaves(received)], messages


@pytest.mark.parametrize("message_bytes", [None, 100])
def test_a_broadcast_is_rank_0s_tree_bit_for_bit_in_few_messages_of_bounded_size(tmp_path, message_bytes):
    expected = [raw(leaf) for leaf in tree.leaves(some_state())]
    for received, messages in run(broadcast_of_a_state, ranks=3, folder=tmp_path, arguments=(message_bytes,)):
        assert received == expected
        assert max(messages) <= (message_bytes or 2**28)
        assert len(messages) == 1 if message_bytes is None else len(messages) > 20


def lose_a_rank(group, how):
    """Rank 1 is lost in step 12."""
    for step in range(10, 15):
        group.beat(step)
        if step == 12 and group.rank == 1:
            time.sleep(2 * heartbeat.INTERVAL)  # steps take longer than in a test
            if how == "late":
                time.sleep(3)
                return None
            os.kill(os.getpid(), {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[how])
        group.all_reduce_async(torch.ones(1000)).wait()
    return None


@pytest.mark.parametrize(
    ("how", "timeout", "event", "diagnosis"),
    [
        ("killed", 20.0, "a connection broke", " sends no heartbeat since step 12: it died"),
        ("stopped", 1.0, "no answer within 1 s", " sends no heartbeat since step 12: it hangs"),
        ("late", 1.0, "no answer within 1 s", " is alive but behind: it is slow or hangs in step 12"),
    ],
)
def test_the_survivors_name_the_rank_that_was_lost_and_how(tmp_path, how, timeout, event, diagnosis):
    started = time.monotonic()
    results = run(lose_a_rank, ranks=4, folder=tmp_path, arguments=(how,), timeout=timeout)
    assert time.monotonic() - started < 15
    for rank in (0, 2, 3):
        assert isinstance(results[rank], PeerLost)
        head = rf"rank {rank} at step 12: {event}\. Rank 1 \(host \S+, process \d+\){diagnosis}"
        assert re.match(head, str(results[rank])), results[rank]
        assert str(results[rank]).count("Rank ") == 1


def stop_rank_0(group):
    group.gather(None)
    if group.rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        group.sum([1.0])
    except PeerLost as error:
        first, started = error, time.monotonic()
    with pytest.raises(PeerLost) as second:
        group.all_finite(torch.tensor(True))
    assert time.monotonic() - started < 0.5
    assert second.value is first
    raise first


def test_a_store_that_went_with_rank_0_is_named_and_once_lost_every_operation_says_so_at_once(tmp_path):
    port = free_port()
    _, *survivors = run(stop_rank_0, ranks=3, folder=tmp_path, timeout=1, port=port)
    for error in survivors:
        assert isinstance(error, PeerLost)
        assert f"The job's store at 127.0.0.1:{port}, hosted by rank 0, does not answer" in str(error)


class _Request(Exception):  # no error
    """What a rank is asked during a wait."""


WAITS = {
    "all_reduce_async": lambda group: group.all_reduce_async(torch.ones(5)).wait(),
    "all_reduce": lambda group: group.all_reduce(torch.ones(5)),
    "all_finite": lambda group: group.all_finite(torch.tensor(True)),
    "sum": lambda group: group.sum([1.0]),
    "gather": lambda group: group.gather("text"),
    "broadcast": lambda group: group.broadcast({"w": torch.ones(5)}),
    "vote": lambda group: group.vote(True).result(),
}


def leave_a_wait(group, wait):
    """Rank 1 takes no part; rank 0 is asked to leave while it waits for rank 1. Returns the seconds since then."""
    group.gather(None)
    if group.rank == 1:
        time.sleep(8)
        return None
    began = time.monotonic()

    def look():
        if time.monotonic() - began > 0.5:
            raise _Request

    group.while_waiting(look)
    try:
        WAITS[wait](group)
    except _Request:
        group.abandon("asked to")
        left = time.monotonic()
    freed = time.monotonic()  # the error is, with all that its traceback kept
    return left - began, freed - left


def test_whatever_a_rank_waits_for_in_vain_it_leaves_soon(tmp_path):
    with ThreadPoolExecutor(len(WAITS)) as jobs:
        results = jobs.map(lambda wait: run(leave_a_wait, ranks=2, folder=tmp_path, arguments=(wait,)), WAITS)
    for wait, ((leaving, freeing), _) in zip(WAITS, results, strict=True):
        assert leaving < 5, wait
        assert freeing < 2, wait


def host_a_store(port):
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    time.sleep(60)
    del store


def outlive_the_store(group, store_host):
    group.gather(None)
    if group.rank == 0:
        os.kill(store_host, signal.SIGKILL)
    sums = []
    for step in range(4):
        group.beat(step)
        sums += group.sum([step])
        time.sleep(heartbeat.INTERVAL / 2)
    return sums


def test_steps_go_on_when_the_store_takes_no_more_heartbeats(tmp_path):
    port = free_port()
    store_host = start(host_a_store, port)
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    results = run(outlive_the_store, ranks=2, folder=tmp_path, arguments=(store_host.pid,), port=port, **agent)
    store_host.join()
    assert results == [[0.0, 2.0, 4.0, 6.0]] * 2


def test_without_an_environment_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    group = open_group("gloo", device=CPU, timeout=1, rdzv_timeout=1)
    assert group is ALONE
    assert (group.rank, group.size) == (0, 1)
    x = torch.tensor([1.0, 2.0])
    group.all_reduce_async(x).wait()
    assert torch.equal(group.all_reduce(x), torch.tensor([1.0, 2.0]))
    assert not group.all_finite(torch.tensor(False))
    assert group.sum([1, 2.5]) == [1.0, 2.5]
    assert group.gather("x") == ["x"]
    assert group.broadcast({"x": x})["x"] is x
    assert [group.vote(flag).result() for flag in (True, False)] == [True, False]
    group.beat(1)
    group.close()


def test_a_group_of_one_is_a_group(tmp_path):
    (buffers,) = run(all_reduce_all_dtypes, ranks=1, folder=tmp_path)
    assert torch.equal(buffers[2], torch.arange(5.0))


def join(monkeypatch, *, rank=1, ranks=2, port, rdzv_timeout=0.5, **more):
    for name, value in environment(rank, ranks, port, **more).items():
        monkeypatch.setenv(name, value)
    return open_group("gloo", device=CPU, timeout=1, rdzv_timeout=rdzv_timeout)


def test_a_rank_that_cannot_reach_the_store_says_the_address_and_what_to_check(monkeypatch):
    port, started = free_port(), time.monotonic()
    with pytest.raises(PeerLost, match=rf"rank 1 on .*127\.0\.0\.1:{port} within 0\.5 s.*MASTER_ADDR must name"):
        join(monkeypatch, port=port)
    assert time.monotonic() - started < 8


def test_a_port_where_another_program_listens_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(job_store, "ANSWER_TIMEOUT", 0.5)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(PeerLost, match=f"store at 127.0.0.1:{mute.getsockname()[1]} within 0.5 s"):
            join(monkeypatch, port=mute.getsockname()[1])


def test_a_port_that_rank_0_cannot_open_is_named(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"MASTER_PORT={port} is taken"):
            join(monkeypatch, rank=0, port=port)


def test_a_rank_that_does_not_connect_is_named(monkeypatch):
    with pytest.raises(PeerLost, match=r"of 3 ranks, ranks 1, 2 did not connect .* within 0\.5 s"):
        join(monkeypatch, rank=0, ranks=3, port=free_port())


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_a_variable_that_is_missing_is_named(monkeypatch, variable):
    for name, value in environment(0, 2, 29500).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(variable)
    with pytest.raises(InputError, match=variable):
        open_group("gloo", device=CPU, timeout=1, rdzv_timeout=1)


def test_ranks_agree_on_a_namespace_of_the_store_that_no_earlier_start_used():
    agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def enter(rank, size, timeout=5.0):
        membership = job_store.Membership(rank, size, "127.0.0.1", agent.port, hosted_by_agent=True)
        return job_store.connect(membership, timeout=timeout)

    def start_ranks(size):
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(lambda rank: enter(rank, size), range(size)))

    first = start_ranks(3)
    first[0].set("beat", "old")
    assert first[2].get("beat") == b"old"
    # The tokens of the first start are still in the store: a rank that comes early must not take them for peers.
    with pytest.raises(PeerLost, match="of 3 ranks, ranks 0, 2 did not connect"):
        enter(1, 3, timeout=0.3)
    second = start_ranks(2)
    assert not second[1].check(["beat"])
    second[0].set("beat", "new")
    assert second[1].get("beat") == b"new"
    assert first[1].get("beat") == b"old"


given_timeouts = []


def use_gloo_as_hccl():
    """Lets the spec ``hccl`` run where there is no NPU."""

    def create(store, rank, size, timeout):
        given_timeouts.append(timeout.total_seconds())
        return dist.ProcessGroupGloo(store, rank, size, timeout)

    dist.Backend.register_backend("hccl", create, devices=["cpu"])


def work_over_hccl(group):
    name = dist.get_backend(dist.group.WORLD)
    half = torch.full((3,), 0.5, dtype=torch.bfloat16)
    group.all_reduce_async(half).wait()
    params = group.broadcast({"w": torch.full((2,), float(group.rank + 7))})
    objects = group.gather(("rank", group.rank))
    return name, half, params["w"], objects, group.vote(group.rank == 1).result(), group.sum([0.1]), given_timeouts


def test_hccl_takes_the_same_path_with_objects_and_votes_on_the_host(tmp_path):
    quick = {"HCCL_CONNECT_TIMEOUT": "5", "HCCL_EXEC_TIMEOUT": "10"}
    results = run(work_over_hccl, ranks=2, folder=tmp_path, spec="hccl", prepare=use_gloo_as_hccl, **quick)
    for name, half, params, objects, vote, sums, timeouts in results:
        assert name == "hccl"
        assert half.tolist() == [1.0, 1.0, 1.0]
        assert params.tolist() == [7.0, 7.0]
        assert objects == [("rank", 0), ("rank", 1)]
        assert vote
        assert sums == [0.2]
        assert timeouts == [22.0]  # 20 s as asked for, and a tenth so that the host's message comes first


def test_hccl_names_the_rank_that_stalls(tmp_path):
    quick = {"HCCL_CONNECT_TIMEOUT": "0.5", "HCCL_EXEC_TIMEOUT": "0.5"}
    hccl = {"spec": "hccl", "prepare": use_gloo_as_hccl, **quick}
    results = run(lose_a_rank, ranks=3, folder=tmp_path, arguments=("stopped",), timeout=1.0, **hccl)
    for rank in (0, 2):
        assert "no answer within 1 s. Rank 1 (host " in str(results[rank])
        assert "HCCL_EXEC_TIMEOUT is 0.5 s" in str(results[rank])


@pytest.mark.parametrize(
    ("variables", "asked", "given"),
    [
        ({}, 1800.0, 1.1 * 1836),
        ({"HCCL_EXEC_TIMEOUT": "600"}, 1800.0, 1.1 * 1800),
        ({"HCCL_EXEC_TIMEOUT": "600", "HCCL_CONNECT_TIMEOUT": "120"}, 300.0, 1.1 * 600),
        ({"HCCL_EXEC_TIMEOUT": "600", "HCCL_CONNECT_TIMEOUT": "120"}, 1800.0, 1.1 * 1800),
    ],
)
def test_a_timeout_below_hccls_own_is_raised_above_it_and_said(monkeypatch, caplog, variables, asked, given):
    for name in ("HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, logger="ds2f"):
        assert process_group._device_timeout("cpu:gloo,npu:hccl", asked) == pytest.approx(given)
    assert ("collective_timeout" in caplog.text) == (given > 1.1 * asked)
