"""Judges a model on long recordings, joined from utterances: python -m launch.longform --run_dir=runs/an4_1p."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from absl import flags as absl_flags

from ds2f.errors import InputError
from launch import cutting, decoding, flags, guard, progress_bars

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ds2f.config import Config
    from ds2f.data.manifests import Utterance
    from ds2f.inference import Recognizer, Transcript
    from ds2f.inference.recognizer import Cut

_MINUTE = 60.0  # seconds
_ROUNDS = 3  # of what takes less than a minute
_FADE = 0.01  # seconds

flags.define(only=("data_path", "run_dir", "device", "data", "apex.opt_level", "apex.dtype"))
decoding.define()
decoding.define_which()
cutting.define()
absl_flags.DEFINE_enum("split", "test", ["val", "test"], "Set of the utterances.")
absl_flags.DEFINE_float("minutes", 30.0, "Length of the joined recordings; utterances come several times.", 1.0, 1440.0)
absl_flags.DEFINE_list(
    "pauses",
    ["0.3", "1.5"],
    "Shortest and longest silence between two utterances, seconds; a second recording has none.",
)
absl_flags.DEFINE_integer("seed", 0, "Seed of the order and of the silences.", lower_bound=0)


class Said(NamedTuple):
    """An utterance, and what the model hears when it is transcribed alone."""

    samples: "NDArray[np.float32]"
    reference: str
    heard: "Transcript"


class Joined(NamedTuple):
    """A recording joined from utterances."""

    path: Path
    seconds: float
    parts: list[tuple[float, Said]]  # begin of each utterance, seconds


def main(_: list[str]) -> None:
    """Joins the utterances of a set to long recordings, with silences and without, and transcribes them.

    Compares with the utterances one by one: word error rate, starts of words, time and memory. A recording of a minute
    is transcribed in one piece and in several.
    """
    run_dir = decoding.run_dir()
    try:
        shortest, longest = map(float, absl_flags.FLAGS.pauses)
    except ValueError as error:
        raise InputError(f"--pauses={','.join(absl_flags.FLAGS.pauses)}: two numbers, such as 0.3,1.5") from error

    from ds2f.checkpoint import load_config
    from ds2f.inference import pieces
    from ds2f.runner.telemetry import terminal

    lengths = cutting.lengths()
    cfg, console = flags.config_from_flags(load_config(run_dir)), terminal()
    recordings = _split(cfg)
    with decoding.decoder(cfg.model.labels) as decoder, tempfile.TemporaryDirectory() as folder:
        make = _recognizers(cfg, run_dir, decoder)
        recognizer = make(partial(pieces.cut, cutting=lengths))
        loaded = _memory("VmRSS")
        said = _say(recordings, recognizer, cfg)
        console.print(f"{len(said)} utterances one by one: {_errors(said, [each.heard for each in said])}")
        for kind, pauses in (("with silences", (shortest, longest)), ("without", (0.0, 0.0))):
            joined = _join(said, pauses, Path(folder), minutes=absl_flags.FLAGS.minutes, rate=cfg.spect.sample_rate)
            with progress_bars.waiting(f"transcribing {joined.seconds / _MINUTE:.1f} min {kind}"):
                judgement = _judge(joined, recognizer, loaded)
            console.print(f"{kind}, {joined.seconds / _MINUTE:.1f} min: {judgement}")
        minute = _join(said, (0.0, 0.0), Path(folder), minutes=1.0, rate=cfg.spect.sample_rate)
        with progress_bars.waiting("transcribing a minute in pieces"):
            at_once = make(partial(pieces.cut, cutting=lengths._replace(longest=_MINUTE + 10)))
            compared = _pieces(minute, recognizer, at_once)
        console.print(compared)


def _split(cfg: "Config") -> "list[tuple[Utterance, str]]":
    """Utterances of the set, with references in the spelling of the labels."""
    from ds2f.runner.splits import Split

    data = Split.read(absl_flags.FLAGS.split, cfg)
    return [(data.utterances[example.row], data.references[example.row]) for example in data.dataset.examples]


def _recognizers(cfg: "Config", run_dir: Path, decoder: "decoding.Decoder") -> "Callable[[Cut], Recognizer]":
    """Makes recognizers with the model of the run."""
    from ds2f.checkpoint import load_model
    from ds2f.inference import Recognizer, calibration
    from ds2f.runner.device.backend import open_backend

    params, stats = load_model(run_dir, which=absl_flags.FLAGS.which)[1:]
    fitted = calibration.read(run_dir, params, stats, lm=decoding.settings(), warn=guard.tell)
    backend = open_backend(cfg.device)
    made = partial(Recognizer, cfg, params, stats, backend=backend, decoder=decoder, calibration=fitted)
    return lambda cut: made(cut=cut)


def _say(recordings: "Sequence[tuple[Utterance, str]]", recognizer: "Recognizer", cfg: "Config") -> list[Said]:
    from ds2f.data import audio_parts

    rate, limit = cfg.spect.sample_rate, cfg.data.max_recording_seconds
    sources = (audio_parts.source(each, sample_rate=rate) for each, _ in recordings)
    heard = progress_bars.counted(recognizer.transcribe_all(sources), "transcribing", len(recordings))
    found = []
    for (utterance, reference), transcript in zip(recordings, heard, strict=True):
        if isinstance(transcript, InputError):
            raise transcript
        loaded = audio_parts.of(utterance, sample_rate=rate, max_seconds=limit)
        found.append(Said(loaded.samples, reference, transcript))
    return found


def _join(said: Sequence[Said], pauses: tuple[float, float], folder: Path, *, minutes: float, rate: int) -> Joined:
    """Writes a recording: utterances in random order, between them noise at the level of the quietest of each."""
    import numpy as np
    import soundfile

    from ds2f.inference.pauses import level

    draw, generator = random.Random(absl_flags.FLAGS.seed), np.random.default_rng(absl_flags.FLAGS.seed)
    path, parts, written = folder / "joined.wav", [], 0
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for each in _endless(said, draw):
            parts.append((written / rate, each))
            quiet = 10 ** (np.percentile(level(each.samples, rate // 100), 5) / 20)
            silence = generator.normal(0, quiet, round(draw.uniform(*pauses) * rate)).astype(np.float32)
            for samples in (each.samples, silence):
                file.write(samples)
                written += len(samples)
            if written >= minutes * _MINUTE * rate:
                return Joined(path, written / rate, parts)
    raise AssertionError


def _endless(said: Sequence[Said], draw: random.Random) -> Iterator[Said]:
    while True:
        yield from draw.sample(said, len(said))


def _judge(joined: Joined, recognizer: "Recognizer", loaded: int) -> str:
    """Errors, word starts, time and memory of a joined recording."""
    began = time.perf_counter()
    _reset_peak()
    heard = recognizer.transcribe(joined.path)
    seconds, peak = time.perf_counter() - began, _memory("VmHWM") - loaded
    late = _lateness(joined, heard)
    apart = f"{1000 * median(map(abs, late)):.0f} ms (median; mean offset {1000 * sum(late) / len(late):+.0f} ms)"
    return (
        f"{_errors([each for _, each in joined.parts], [heard])}; {len(heard.words)} words, starts {apart} from those "
        f"of the utterances; {seconds * _MINUTE / joined.seconds:.2f} s per minute, {peak / 1e9:.2f} GB above the model"
    )


def _errors(said: Sequence[Said], heard: Sequence["Transcript"]) -> str:
    from ds2f.metrics import count_errors, deciding_rate

    found = count_errors(" ".join(each.reference for each in said), " ".join(each.text for each in heard))
    return found.rates(deciding_rate("auto", (each.reference for each in said)), between=", ")


def _lateness(joined: Joined, heard: "Transcript") -> list[float]:
    """Seconds by which each word starts later than in its utterance; of words that are the same."""
    from rapidfuzz.distance import Levenshtein

    alone = [(word.text, begin + word.start) for begin, each in joined.parts for word in each.heard.words]
    together = [(word.text, word.start) for word in heard.words]
    blocks = Levenshtein.opcodes([text for text, _ in alone], [text for text, _ in together])
    return [
        together[there][1] - alone[here][1]
        for block in blocks
        if block.tag == "equal"
        for here, there in zip(
            range(block.src_start, block.src_end), range(block.dest_start, block.dest_end), strict=True
        )
    ] or [0.0]


def _pieces(minute: Joined, several: "Recognizer", one: "Recognizer") -> str:
    from ds2f.metrics import count_errors

    said, heard = one.transcribe(minute.path), several.transcribe(minute.path)
    found = count_errors(*(" ".join(word.text for word in each.words) for each in (said, heard)))
    seconds = median(_timed(lambda: several.transcribe(minute.path)) for _ in range(_ROUNDS))
    return (
        f"{minute.seconds:.0f} s in one piece and in several: {found.word_errors} of {found.words} words differ; "
        f"{seconds * _MINUTE / minute.seconds:.2f} s per minute"
    )


def _timed(do: "Callable[[], object]") -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _memory(name: str) -> int:
    """A number of /proc/self/status, bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def _reset_peak() -> None:
    """Forgets the peak of memory, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


if __name__ == "__main__":
    flags.run(main)
