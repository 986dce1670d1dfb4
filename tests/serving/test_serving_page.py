"""The page of the server is true: its curl commands are answered, its deployment files hold what they promise."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pages
import pytest
from pages import ROOT
from serving_process import wav

PAGE = ROOT / "ds2f/serving/README.md"
CURL = [command for command in pages.commands() if command.words[0] == "curl"]
DEPLOYMENT = ROOT / "configs/serving"
FLAGS = """
import importlib, sys
importlib.import_module("launch.serve")
from launch import flags
flags.parse(["launch.serve", *sys.argv[1:]])
"""


@pytest.mark.parametrize("command", CURL, ids=str)
def test_a_curl_command_is_answered(server, tmp_path, command):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    (tmp_path / "one.wav").write_bytes(wav(2))
    words = [word.replace("http://127.0.0.1:8080", server.url) for word in command.words]
    done = subprocess.run(
        [*words, "--silent", "--fail-with-body"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_the_page_names_every_status_and_code(server):
    source = "".join(path.read_text() for path in (ROOT / "ds2f/serving").glob("*.py"))
    table = pages.read(PAGE).partition("## Answers when it refuses")[2].partition("\n- ")[0]
    codes = set(
        re.findall(
            r'"((?:invalid|too|unsupported|queue|sessions|connections|shutting|recording)_\w+|no_memory|timeout|busy)"',
            source,
        )
    )
    assert codes - {"invalid_request_error", "invalid_request", "too_long"} == set(re.findall(r"`(\w+)`", table)) - {
        "error"
    }


def test_the_commands_of_the_deployment_files_are_the_servers():
    unit = (DEPLOYMENT / "ds2f.service").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)]
    for name in ("Dockerfile", "Dockerfile.ascend"):
        text = (DEPLOYMENT / name).read_text()
        words = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])
        commands.append(
            shlex.split(words[2].partition("exec ")[2].replace(' "$@"', "")) if words[0] == "bash" else words
        )
        for copied in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
            assert all((ROOT / path).exists() for path in copied.split()), copied
    for words in commands:
        assert words[1:3] == ["-m", "launch.serve"]
        done = subprocess.run(
            [sys.executable, "-c", FLAGS, *words[3:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_systemd_accepts_the_unit(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    unit = (DEPLOYMENT / "ds2f.service").read_text().replace("/opt/ds2f/bin/python", "/bin/true")
    (tmp_path / "ds2f.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "ds2f.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
