"""Loads a server of its own and checks every answer: python -m launch.load_test --run_dir=RUN RECORDING..."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from ds2f.errors import InputError, WorkerDied
from launch import decoding, flags, recordings

if TYPE_CHECKING:
    from launch.load_clients import Answers, Sample

flags.define(only=("run_dir", "device"))
decoding.define_which()
absl_flags.DEFINE_integer("clients", 50, "Clients that upload at the same time.", lower_bound=1)
absl_flags.DEFINE_float("seconds", 30.0, "Time of each measurement of uploads, seconds.", lower_bound=0.1)
absl_flags.DEFINE_integer("sessions", 20, "Streaming sessions, of a unidirectional model; 0: none.", lower_bound=0)
absl_flags.DEFINE_float(
    "long_minutes", 20.0, "Duration of the recording that is uploaded among short ones; 0: none.", lower_bound=0.0
)
absl_flags.DEFINE_list("server_flags", [], "Flags of launch.serve, such as --lm.path=lm.arpa,--workers=2.")
absl_flags.DEFINE_string("json", "", "Also write the results to this file.")

_SHORTEST, _LONGEST = 1.0, 8.0  # seconds of a recording of the mixed ones
_LIKE = 0.1  # largest difference to the median length of recordings of like length
_STREAM_SECONDS = 10.0  # of a stream: recordings one after another
_START_SECONDS = 300.0


def main(arguments: list[str]) -> int:
    """Measures uploads of like and of mixed lengths, with batches and with batches of one; a long upload; streams.

    The exit status is 1 if any answer was missing or had another text than ``launch.transcribe`` gives.
    """
    chosen, run_dir = absl_flags.FLAGS, decoding.run_dir()
    output = flags.output_file("json")
    samples = _samples(arguments[1:], run_dir)
    middle = median_low(sample.seconds for sample in samples)
    like = [sample for sample in samples if abs(sample.seconds - middle) <= _LIKE * middle]
    kinds = {"like": like, "mixed": samples}
    results: dict[str, Any] = {}
    for mode, mode_flags in {"batches": (), "single": ("--serving.batch_frames=1",)}.items():
        with _server(run_dir, mode_flags) as url:
            for kind, members in kinds.items():
                results[f"{kind}, {mode}"] = _uploads(url, members)
            if mode == "batches" and chosen.long_minutes:
                results["mixed, long"] = _uploads(url, samples, long=True)
            if mode == "batches" and chosen.sessions and not _is_bidirectional(run_dir):
                results["streams"] = _streams(url, samples, run_dir)
    _show(results)
    if output:
        from ds2f.files import json_text, write_atomically

        write_atomically(output, json_text(results, indent=2) + "\n")
    return 1 if any(result["errors"] or result["wrong"] for result in results.values()) else 0


def _samples(given: Sequence[str], run_dir: Path) -> "list[Sample]":
    """The recordings of 1 to 8 s, with the texts of ``launch.transcribe``.

    Raises:
      InputError: there is none.
    """
    from ds2f.data import audio
    from launch.load_clients import Sample

    rate = _sample_rate(run_dir)
    found = {}
    for each in recordings.named_by(given):
        if isinstance(each, InputError):
            raise each
        loaded = audio.load(each.name, sample_rate=rate).samples
        if _SHORTEST <= len(loaded) / rate <= _LONGEST:
            found[each.name] = (loaded * 32767).clip(-32768, 32767).astype("int16")
    if not found:
        raise InputError(f"no recording of {_SHORTEST:g} to {_LONGEST:g} s; name files or folders")
    texts = _texts(found, rate, run_dir)
    return [Sample(name, pcm, rate, texts[name]) for name, pcm in found.items()]


def _texts(pcm: dict[str, Any], rate: int, run_dir: Path) -> dict[str, str]:
    """The text of each recording, by ``launch.transcribe`` with the decoder of the server."""
    import tempfile

    from launch.load_clients import wav

    shared = [flag for flag in absl_flags.FLAGS.server_flags if flag.startswith(("--lm.", "--apex."))]
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, (name, samples) in enumerate(pcm.items()):
            path = Path(folder) / f"{number}.wav"
            path.write_bytes(wav(samples, rate))
            paths[str(path)] = name
        command = [*_command("transcribe", run_dir), "--format=jsonl", *shared, *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkerDied(f"launch.transcribe failed: {done.stderr.strip()}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {paths[line["audio"]]: line["text"] for line in lines}


def _command(name: str, run_dir: Path) -> list[str]:
    chosen = absl_flags.FLAGS
    given = [f"--{flag}={chosen[flag].value}" for flag in ("device", "which") if chosen[flag].present]
    return [sys.executable, "-m", f"launch.{name}", f"--run_dir={run_dir}", *given]


@contextmanager
def _server(run_dir: Path, more: Sequence[str]) -> Iterator[str]:
    """A server on a free port; yields its address.

    Raises:
      WorkerDied: it does not start, or does not end in order.
    """
    limits = ["--port=0", "--noaccess_log", "--serving.queue=10000", "--serving.sessions=10000"]
    command = [*_command("serve", run_dir), *limits, *absl_flags.FLAGS.server_flags, *more]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _address(process)
        finally:
            process.terminate()
            said = process.communicate()[1]
    if process.returncode:
        raise WorkerDied(f"launch.serve ended with status {process.returncode}: {said.strip()}")


def _address(process: "subprocess.Popen[str]") -> str:
    """Waits until the server answers."""
    import urllib.request

    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        if " at http://" in line:
            url = line.rpartition(" at ")[2].strip().rstrip("/")
            break
    end = time.monotonic() + _START_SECONDS
    while url and process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return url
        except OSError:
            time.sleep(0.1)
    raise WorkerDied("launch.serve does not start; start it by hand to see why")


def _uploads(url: str, samples: "Sequence[Sample]", *, long: bool = False) -> dict[str, Any]:
    """Uploads for the time of a measurement, and a long recording meanwhile."""
    from launch.load_clients import Uploads, upload_all

    chosen, finished = absl_flags.FLAGS, []
    thread = None
    if long:
        joined = _joined(samples, 60 * chosen.long_minutes)
        thread = threading.Thread(target=lambda: finished.append(Uploads(url).upload(joined)))
        thread.start()
    found = _summary(upload_all(url, samples, clients=chosen.clients, seconds=chosen.seconds))
    if thread:
        thread.join()
        status, _, seconds = finished[0]
        found["long upload"] = {"status": status, "seconds": seconds}
        found["errors"] += status != 200
    return found


def _streams(url: str, samples: "Sequence[Sample]", run_dir: Path) -> dict[str, Any]:
    """Streaming sessions, each of another sequence of recordings; the texts are those of the whole recordings."""
    from launch.load_clients import stream_all

    count = absl_flags.FLAGS.sessions
    joined = [_joined([*samples[number:], *samples[:number]], _STREAM_SECONDS) for number in range(count)]
    named = [sample._replace(name=f"stream {number}") for number, sample in enumerate(joined)]
    texts = _texts({sample.name: sample.pcm for sample in named}, named[0].rate, run_dir)
    expected = [sample._replace(text=texts[sample.name]) for sample in named]
    return _summary(stream_all(url, expected, sessions=count))


def _joined(samples: "Sequence[Sample]", seconds: float) -> "Sample":
    """Recordings one after another, at least so many seconds of them; it has no text."""
    import numpy as np

    parts, length, place = [], 0.0, 0
    while length < seconds:
        parts.append(samples[place % len(samples)])
        length += parts[-1].seconds
        place += 1
    return samples[0]._replace(name="joined", pcm=np.concatenate([part.pcm for part in parts]), text="")


def _summary(answers: "Answers") -> dict[str, Any]:
    from launch.load_clients import percentile

    return {
        "answers": len(answers.latencies),
        "errors": len(answers.errors),
        "wrong": len(answers.wrong),
        "examples": [*answers.errors, *answers.wrong][:5],
        "answers_per_second": len(answers.latencies) / answers.wall,
        "sound_seconds_per_second": answers.sound / answers.wall,
        **{f"p{percent}": percentile(answers.latencies, percent) for percent in (50, 95, 99)},
    }


def _show(results: dict[str, Any]) -> None:
    from rich.console import Console

    from launch.tables import terminal_table

    numbers = ("right", "errors", "wrong", "per s", "x real", "p50 s", "p95 s", "p99 s")
    table = terminal_table("", ["lengths"], numbers)
    for name, found in results.items():
        counts = [str(found[key]) for key in ("answers", "errors", "wrong")]
        rates = [f"{found[key]:.1f}" for key in ("answers_per_second", "sound_seconds_per_second")]
        table.add_row(name, *counts, *rates, *(f"{found[f'p{percent}']:.3f}" for percent in (50, 95, 99)))
    console = Console()
    console.print(table)
    for name, found in results.items():
        for example in found["examples"]:
            console.print(f"{name}: {example}", markup=False)


def _sample_rate(run_dir: Path) -> int:
    from ds2f.checkpoint import load_config

    return load_config(run_dir).spect.sample_rate


def _is_bidirectional(run_dir: Path) -> bool:
    from ds2f.checkpoint import load_config

    return load_config(run_dir).model.bidirectional


if __name__ == "__main__":
    flags.run(main, positional=True)
