"""The start of ``launch.serve``: mistakes are told in one line before the model is loaded."""

import socket

import pytest


@pytest.fixture
def refused(launch, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")

    def run(*flags):
        ended = launch("serve", "--device=cpu", *flags, folder=tmp_path)
        assert ended.status == 1
        assert "Traceback" not in ended.err
        return ended.err

    return run


def test_a_run_is_needed(refused):
    assert "--run_dir is missing" in refused()


def test_an_address_that_is_taken_or_of_another_machine_is_told(refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port={port}: Address already in use; choose another" in refused("--run_dir=run", f"--port={port}")
    assert "--host=192.0.2.1 --port=0" in refused("--run_dir=run", "--host=192.0.2.1", "--port=0")
    assert "choose another address or port" in refused("--run_dir=run", "--host=no.such.host.invalid", "--port=0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "no key in the file"),
        ("# a comment\n\n", "no key in the file"),
        ("a-key-that-is-long-enough\nshort\n", "line 2: a key has 16 or more"),
        ("a key that has spaces in it\n", "line 1: a key has 16 or more"),
    ],
)
def test_keys_that_cannot_be_used_are_told_and_not_shown(refused, tmp_path, content, message):
    if content is not None:
        (tmp_path / "keys").write_text(content)
    said = refused("--run_dir=run", "--port=0", "--api_keys=keys")
    assert f"--api_keys=keys: {message}" in said
    assert "openssl rand" in said
    assert "short" not in said.replace("shorter", "")


def test_a_limit_that_cannot_be_is_told_with_its_range(refused):
    assert "serving.queue" in refused("--run_dir=run", "--serving.queue=0")
    assert "must be > 0" in refused("--run_dir=run", "--serving.hours=0")
