"""The tunnel to a store: who knows the secret reaches the store through it, and nobody else."""

import contextlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist
from strangers import JUNK, store_message
from waiting import wait_for

from ds2f.runner.distributed import tunnel
from ds2f.runner.distributed.rendezvous_stores import host_store, reach_store

SECRET = b"a secret of these tests"


@pytest.fixture
def hosted():
    """A store, and the port of its gate."""
    gate = socket.create_server(("127.0.0.1", 0))
    store = host_store([gate], SECRET)
    yield store.store, gate.getsockname()[1]
    store.close()


def test_clients_that_know_the_secret_share_the_store(hosted):
    store, port = hosted
    reached = [reach_store("127.0.0.1", port, SECRET, timeout=5) for _ in range(3)]
    value = os.urandom(2**20).hex()  # longer than a chunk
    reached[0].store.set("key", value)
    assert [other.store.get("key") for other in reached] == [value.encode()] * 3
    assert store.get("key") == value.encode()
    with ThreadPoolExecutor(8) as pool:  # as many clients of one entry as ranks
        clients = [dist.TCPStore("127.0.0.1", reached[0].port, wait_for_workers=False) for _ in range(8)]
        assert sorted(pool.map(lambda client: client.add("count", 1), clients)) == list(range(1, 9))
    for each in reached:
        each.close()


def test_another_secret_is_refused_on_both_sides(hosted):
    _, port = hosted
    with socket.create_connection(("127.0.0.1", port), 5) as connection, pytest.raises(tunnel.WrongSecretError):
        tunnel.prove(connection, b"another secret of tests")
    with pytest.raises((RuntimeError, TimeoutError)):
        reach_store("127.0.0.1", port, b"another secret of tests", timeout=1)


def test_a_message_of_a_store_reaches_a_plain_store_and_none_behind_a_gate(hosted):
    store, port = hosted
    plain = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for target in (plain.port, port):
        with socket.create_connection(("127.0.0.1", target), 5) as connection:
            connection.sendall(store_message("key", b"value"))
            connection.settimeout(1)
            with contextlib.suppress(OSError):
                connection.recv(100)
    assert wait_for(lambda: plain.check(["key"]), limit=5), "the message is one of torch's protocol"
    assert not store.check(["key"])


def test_junk_and_half_open_connections_do_not_keep_others_out(hosted):
    store, port = hosted
    with contextlib.ExitStack() as stack:
        for message in [*JUNK, *[b""] * 100]:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            connection.sendall(message)
        started = time.monotonic()
        reached = reach_store("127.0.0.1", port, SECRET, timeout=5)
        reached.store.set("key", "value")
        assert time.monotonic() - started < 2
        assert store.get("key") == b"value"
        connection.settimeout(3 * tunnel.HANDSHAKE_TIMEOUT)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(100):
                pass
        assert time.monotonic() - started < 2 * tunnel.HANDSHAKE_TIMEOUT, "a silent connection is closed"
        reached.close()


def test_a_service_that_is_no_gate_is_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def answer():
            with server.accept()[0] as accepted:
                accepted.sendall(b"SSH-2.0-OpenSSH_9.2p1 and more of that kind, long enough\r\n")

        pool.submit(answer)
        with socket.create_connection(server.getsockname(), 5) as connection, pytest.raises(tunnel.NoGateError):
            tunnel.prove(connection, SECRET)


def test_an_entry_whose_gate_is_gone_ends_its_connections():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    entry = tunnel.Entry("127.0.0.1", port, SECRET)
    with pytest.raises((RuntimeError, TimeoutError)):
        dist.TCPStore("127.0.0.1", entry.port, timeout=timedelta(seconds=1), wait_for_workers=False)
    entry.close()
