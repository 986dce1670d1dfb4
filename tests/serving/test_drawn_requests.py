"""Requests that are drawn from the OpenAPI document, and malformed ones: never an error of the server."""

import contextlib
import random
import socket
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_process import wav

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


def draw_requests(server, count):
    """Draws requests for every operation of the document; half of them are wrong."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 7
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                case.call_and_validate(checks=CHECKS)

            with contextlib.suppress(Unsatisfiable):  # an operation without arguments has no wrong ones
                ask()


def test_answers_are_those_of_the_document(server):
    draw_requests(server, 5)


@pytest.mark.long
def test_answers_are_those_of_the_document_for_long(server):
    draw_requests(server, 150)
    assert "Traceback" not in server.log


def request_bytes(content):
    """A good request as bytes."""
    request = httpx.Request("POST", "http://a/v1/audio/transcriptions", files={"file": ("a.wav", content)})
    head = "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
    head += f"content-type: {request.headers['content-type']}\r\n"
    return head.encode(), request.read()


def answered(server, sent):
    """The status of the answer to bytes; 0 where the connection is closed without one."""
    address, answer = urlsplit(server.url), b""
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while block := connection.recv(65536):
                answer += block
        except ConnectionError:
            pass  # what came before counts
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def damaged(generator, head, body):
    """A request with one kind of damage, of several."""
    body = bytearray(body)
    kind = generator.randrange(6)
    length = len(body)
    if kind == 0:  # the end is missing, and the length says so
        del body[generator.randrange(len(body)) :]
        length = len(body)
    elif kind == 1:  # bytes of the form's frame are others
        for _ in range(8):
            body[generator.randrange(120)] = generator.randrange(256)
    elif kind == 2:  # bytes anywhere are others, the header of the recording among them
        for _ in range(20):
            body[generator.randrange(100, 260)] = generator.randrange(256)
    elif kind == 3:  # another content type
        head = head.replace(b"multipart/form-data", generator.choice([b"text/plain", b"multipart/mixed", b"\xff", b""]))
    elif kind == 4:  # the headers are damaged
        changed = bytearray(head)
        changed[generator.randrange(len(changed))] = generator.randrange(256)
        head = bytes(changed)
    else:  # the boundary is another
        head = head.replace(b"boundary=", b"boundary=x")
    return head + f"content-length: {length}\r\n\r\n".encode() + bytes(body)


def attack(server, count, seed):
    generator = random.Random(seed)
    head, body = request_bytes(wav(1))
    statuses = [answered(server, damaged(generator, head, body)) for _ in range(count)]
    assert all(status == 0 or 200 <= status < 500 for status in statuses), sorted(set(statuses))
    return statuses


def test_damaged_requests_are_refused(server):
    statuses = attack(server, 60, seed=1)
    assert sum(400 <= status < 500 for status in statuses) > 10
    assert "Traceback" not in server.log
    assert httpx.get(f"{server.url}/ready").status_code == 200


def resident(server):
    """Memory of the server, bytes."""
    with open(f"/proc/{server.process.pid}/smaps_rollup") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


@pytest.mark.long
def test_memory_comes_back_after_two_thousand_damaged_requests(server):
    attack(server, 200, seed=2)  # caches are filled
    before = resident(server)
    attack(server, 2000, seed=3)
    assert resident(server) < 1.05 * before
    assert "Traceback" not in server.log


@pytest.mark.long
def test_memory_is_flat_over_five_thousand_requests(server):
    contents = [wav(1 + seed % 4, seed) for seed in range(8)]

    def send(count):
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for number in range(count):
                answer = client.post("/transcribe", files={"file": ("a", contents[number % len(contents)])})
                assert answer.status_code == 200

    send(500)
    before = resident(server)
    send(5000)
    assert resident(server) < 1.05 * before
