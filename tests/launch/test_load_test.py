"""The load test: its clients against a running server, and the whole command."""

import io
import json

import numpy as np
import pytest
import soundfile
from serving_process import recognizer, write_run
from speaking_model import RATE, sound

from launch.load_clients import Sample, percentile, stream_all, upload_all, wav


def sample(seconds, seed):
    pcm = (sound(seconds, seed) * 32767).clip(-32768, 32767).astype(np.int16)
    heard = recognizer().transcribe(io.BytesIO(wav(pcm, RATE)))
    return Sample(str(seed), pcm, RATE, heard.text)


@pytest.fixture(scope="module")
def samples():
    return [sample(2 + seed / 2, seed) for seed in range(4)]


def test_uploads_are_timed_and_compared(server, samples):
    found = upload_all(server.url, samples, clients=3, seconds=0.5)
    assert (found.errors, found.wrong) == ([], [])
    assert len(found.latencies) >= 3
    assert all(0 < latency < found.wall + 1 for latency in found.latencies)
    assert found.sound >= 2 * len(found.latencies)


def test_a_wrong_text_and_a_refusal_are_counted(server, samples):
    other = [each._replace(text="ANOTHER TEXT") for each in samples]
    found = upload_all(server.url, other, clients=2, seconds=0.2)
    assert (found.latencies, found.errors) == ([], [])
    assert "in place of 'ANOTHER TEXT'" in found.wrong[0]
    found = upload_all(server.url, [Sample("empty", np.zeros(0, np.int16), RATE, "")], clients=1, seconds=0.1)
    assert "422" in found.errors[0]
    found = upload_all("http://127.0.0.1:1", samples, clients=1, seconds=0.05)
    assert "ConnectionRefusedError" in found.errors[0]


def test_streams_are_paced_timed_and_compared(server):
    texts = [sample(1.5, seed) for seed in range(2)]
    found = stream_all(server.url, [*texts, texts[0]._replace(text="ANOTHER")], sessions=3)
    assert found.errors == []
    assert len(found.wrong) == 1
    assert len(found.latencies) == 45
    assert found.wall >= 1.5
    assert percentile(found.latencies, 50) < 1.5


@pytest.mark.long
def test_the_command_measures_batches_singles_a_long_upload_and_streams(launch, tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "sounds").mkdir()
    for seed in range(6):
        soundfile.write(tmp_path / "sounds" / f"{seed}.wav", sound(1.5 + seed, seed), RATE)
    small = ("--clients=3", "--seconds=1", "--sessions=2", "--long_minutes=0.5", "--json=out.json")
    ended = launch("load_test", "--run_dir=run", "--device=cpu", *small, "sounds", folder=tmp_path, limit=240)
    assert ended.status == 0, ended.err
    results = json.loads((tmp_path / "out.json").read_text())
    assert len(results) == 6
    assert all(found["answers"] > 0 and not found["errors"] + found["wrong"] for found in results.values())
    assert "mixed, long" in ended.out
