"""Transcribes recordings: python -m launch.transcribe --run_dir=runs/an4_1p RECORDING..."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import cutting, decoding, flags, guard, models, recordings, transcribe_stream

if TYPE_CHECKING:
    from ds2f.config import Config
    from ds2f.data.audio_blocks import Recording
    from ds2f.inference import Recognizer, Transcript
    from ds2f.inference.formats import Format
    from ds2f.inference.recognizer import Cut
    from launch.models import Model
    from launch.recordings import Named

_SHOWN = 5  # recordings that a remark names
_MANY = 20  # recordings after which the failures are counted at the end
_TEXT_ALONE = ("text", "trn")  # formats without times and confidences
_FORMATS = ["text", "json", "jsonl", "srt", "vtt", "ctm", "trn", "tsv", "textgrid"]

flags.define(only=("run_dir", "device", "apex.opt_level", "apex.dtype"))
decoding.define()
decoding.define_which()
models.define()
cutting.define()
transcribe_stream.define()
absl_flags.DEFINE_enum(
    "format", "text", _FORMATS, "Format of the transcripts. Text is a line per recording: path, tab, text."
)
absl_flags.DEFINE_boolean(
    "word_times", False, "With --format=text, a line per word: path, start and end in seconds, word, confidence."
)
absl_flags.DEFINE_string(
    "output_dir", "", "Write a file per recording into this folder, in the tree of the recordings; empty: print."
)
absl_flags.DEFINE_boolean("resume", False, "With --output_dir, leave out recordings whose file is there already.")
absl_flags.DEFINE_string(
    "files_from", "", 'Also transcribe the recordings on the lines of this file, or between zero bytes; "-": stdin.'
)
absl_flags.DEFINE_enum(
    "vad",
    "energy",
    ["energy", "silero"],
    "How pauses are found in which recordings of over 25 s are cut: by the level of the sound, or by Silero's model of "
    "speech, which music and noise do not deceive (pip install 'ds2f[vad]').",
)
absl_flags.DEFINE_string(
    "segments",
    "",
    "Transcribe the parts of recordings that this file gives, each as a segment: lines of RECORDING START END, labels "
    "of Audacity, Kaldi's segments, RTTM, or a NeMo manifest.",
)
absl_flags.DEFINE_integer("nbest", 1, "Number of alternatives of each segment, with beam search.", lower_bound=1)
absl_flags.DEFINE_integer("workers", 0, "Threads that read recordings; 0: one per processor.", lower_bound=0)
absl_flags.DEFINE_float("max_hours", 24.0, "Longest recording, hours; a longer one is refused.", lower_bound=0.0)

absl_flags.DEFINE_float(
    "pipe_timeout",
    60.0,
    "Seconds after which a pipe through which nothing comes is given up; 0: never.",
    lower_bound=0.0,
)


def main(arguments: list[str]) -> int:
    """Transcribes recordings of any length. One that cannot be read is reported, and the others go on.

    A recording is a file, a folder (all recordings in it and below it), a pattern such as "*.flac", a pipe, or "-" for
    standard input. Characters that act on a terminal are escaped in text. Remarks about the recordings follow on
    standard error. The exit status is 1 if any recording failed. With ``--stream``, one recording is transcribed while
    it goes on.
    """
    chosen, run_dir, given = absl_flags.FLAGS, models.chosen(arguments[1:]), arguments[1:]
    if transcribe_stream.check(given):
        with _recognizer(run_dir) as recognizer:
            return transcribe_stream.transcribe(given[0], recognizer)
    if not given and not chosen.files_from:
        raise InputError("no recordings given: python -m launch.transcribe --run_dir=RUN FILE... (or FOLDER, or -)")
    output = Path(chosen.output_dir) if chosen.output_dir else None
    _check(output)
    found = list(recordings.named_by(given, files_from=chosen.files_from))
    failed = [each for each in found if isinstance(each, InputError)]
    for error in failed:
        guard.tell(f"transcribe: {error}")
    wanted = [each for each in found if not isinstance(each, InputError)]
    if wanted:
        _require_one(wanted, output)
    if output:
        _require_own_files(wanted, output)
    if output and chosen.resume:
        wanted = [each for each in wanted if not _target(each, output).exists()]
    failures = len(failed)
    if wanted:
        with _recognizer(run_dir) as recognizer:
            try:
                with recordings.interruptible():
                    failures += _transcribe_all(wanted, recognizer, output)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    "interrupted; the same command with --resume goes on" if output else "interrupted"
                ) from None
    if output and wanted:
        written = len(wanted) - failures + len(failed)
        guard.tell(f"wrote {written:,} transcript{'s' * (written != 1)} below {output}")
    if failures and len(found) > _MANY:
        guard.tell(f"transcribe: {failures} of {len(found)} recordings failed")
    return 1 if failures else 0


def _check(output: Path | None) -> None:
    """Refuses flags that contradict each other, before the model is loaded."""
    chosen, lm = absl_flags.FLAGS, decoding.settings()
    if output and output.exists() and not output.is_dir():
        raise InputError(f"--output_dir={output} is a file; give a folder")
    if chosen.resume and not output:
        raise InputError("--resume leaves out recordings whose files are there: it needs --output_dir=FOLDER")
    if chosen.segments and chosen.vad != "energy":
        raise InputError(
            f"--vad={chosen.vad} finds pauses, and --segments={chosen.segments} gives the cuts; leave out one"
        )
    if chosen.segments and cutting.given():
        raise InputError("--cutting gives the lengths of pieces, and --segments the pieces; leave out one")
    if chosen.word_times and chosen.format != "text":
        raise InputError(
            f"--word_times is for --format=text; leave it out with --format={chosen.format} (json, jsonl, ctm, tsv and "
            "textgrid have the times of words)"
        )
    if chosen.nbest > 1 and not lm.searches:
        raise InputError("--nbest lists alternatives of beam search; add --lm.decoder=beam, or --lm.path=LM")
    if chosen.nbest > 1 and chosen.format not in ("json", "jsonl"):
        raise InputError(f"--nbest needs --format=json or jsonl: --format={chosen.format} has no alternatives")
    if chosen.nbest > lm.width():
        raise InputError(f"--nbest={chosen.nbest} is more than --lm.beam_size={lm.width()}; raise the beam size")


def _require_one(wanted: list["Named"], output: Path | None) -> None:
    """Refuses to print several recordings in a format whose files hold one."""
    from ds2f.inference.formats import FORMATS

    form = absl_flags.FLAGS.format
    if len(wanted) > 1 and output is None and not FORMATS[form].several:
        raise InputError(
            f"--format={form} holds one recording, and there are {len(wanted)}; add --output_dir=FOLDER, which gets a "
            "file for each, or take --format=jsonl, a line for each"
        )


def _require_own_files(wanted: list["Named"], output: Path) -> None:
    """Refuses recordings whose files would replace each other, before the first of them is transcribed."""
    taken: dict[Path, Path] = {}
    for each in wanted:
        other = taken.setdefault(_target(each, output), Path(each.name))
        if other != Path(each.name):
            raise InputError(
                f"{other} and {each.name} would share the file {_target(each, output)}; name the folder above both, "
                "which keeps its tree, or give each an --output_dir of its own"
            )


@contextmanager
def _recognizer(run_dir: Path) -> "Iterator[Recognizer]":
    """The model of the run, with the processes of its decoder."""
    from ds2f import decode

    chosen, lm, model = absl_flags.FLAGS, decoding.settings(), models.find(run_dir)
    cfg = flags.config_from_flags(model.stored)
    cut = _cut(model)
    with ExitStack() as opened:
        searching: dict[str, Any] = {"decoder": decode.greedy}
        if lm.searches:
            hot = decoding.hot_words(lm, cfg.model.labels)
            pool = opened.enter_context(decoding.beam_pool(lm, cfg.model.labels))
            searching = {"decoder": pool.best(lm, hot_words=hot), "decoding": pool.workers}
            if chosen.nbest > 1:
                searching["alternatives"] = partial(pool.beam, cfg=lm, hot_words=hot, most=chosen.nbest)
        backend = models.backend(model, cfg)
        shows = chosen.word_times or chosen.format not in _TEXT_ALONE
        yield models.recognizer(model, cfg, backend, shows=shows, nbest=chosen.nbest, cut=cut, **searching)


def _cut(model: "Model") -> "Cut":
    """How recordings are divided into pieces.

    Raises:
      InputError: the segments cannot be read, or the detector of speech cannot be used.
    """
    from ds2f.inference import given_cuts, pieces, silero

    chosen = absl_flags.FLAGS
    if chosen.segments:
        return given_cuts.GivenCuts(given_cuts.read(Path(chosen.segments)), cutting=model.cutting())
    cut = partial(pieces.cut, cutting=model.cutting())
    if chosen.vad == "silero":
        silero.Silero(model.stored.spect.sample_rate)
        return partial(cut, detector=silero.Silero)
    return cut


def _transcribe_all(wanted: list["Named"], recognizer: "Recognizer", output: Path | None) -> int:
    """Transcribes, and prints or writes each transcript as soon as it is there; returns how many failed."""
    from ds2f.inference.formats import FORMATS
    from ds2f.processes import cpu_count

    chosen, form = absl_flags.FLAGS, FORMATS[absl_flags.FLAGS.format]
    remarks: dict[str, list[str]] = defaultdict(list)
    failed, heard, begun = 0, 0.0, time.monotonic()
    results = recognizer.transcribe_all(_opened(wanted, recognizer.cfg), workers=chosen.workers or cpu_count())
    if form.header and output is None:
        print(form.header, end="", flush=True)
    with _progress(len(wanted)) as advance:
        for each, result in zip(wanted, results, strict=True):
            recordings.heed_interrupt()
            if isinstance(result, InputError):
                failed += 1
                guard.tell(f"transcribe: {result}")
            else:
                heard += result.duration
                for note in result.notes:
                    remarks[note].append(each.name)
                _give(each, result, form, output)  # an error ends the command: the next file would have it too
            advance(heard / (time.monotonic() - begun))
    for remark, names in remarks.items():
        more = ", ..." if len(names) > _SHOWN else ""
        guard.tell(f"transcribe: {remark} ({len(names)} recording(s): {', '.join(names[:_SHOWN])}{more})")
    return failed


def _opened(wanted: list["Named"], cfg: "Config") -> "Iterator[Recording | InputError]":
    """The recordings, opened as they are needed; the error of one that cannot be opened takes its place."""
    from ds2f.data.audio_blocks import Recording

    for each in wanted:
        try:
            source = (
                recordings.open_pipe(each.name, patience=absl_flags.FLAGS.pipe_timeout)
                if each.may_be_pipe
                else each.name
            )
            yield Recording(
                source,
                sample_rate=cfg.spect.sample_rate,
                name=each.name,
                max_seconds=3600 * absl_flags.FLAGS.max_hours,
            )
        except InputError as error:
            yield error


def _give(each: "Named", transcript: "Transcript", form: "Format", output: Path | None) -> None:
    """Prints a transcript, or writes its file."""
    from ds2f.files import write_atomically

    chosen = absl_flags.FLAGS
    if output is not None:
        content = _word_lines(each.name, transcript) if chosen.word_times else form.write(each.name, transcript)
        target = _target(each, output)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, form.header + content)
        except OSError as error:
            raise InputError(f"{target}: {error.strerror}; give another --output_dir") from error
    elif chosen.word_times:
        print(_word_lines(each.name, transcript), end="", flush=True)
    elif chosen.format == "text":
        print(f"{shown(each.name)}\t{shown(transcript.text)}", flush=True)
    else:
        print(form.write(each.name, transcript), end="", flush=True)


def _word_lines(name: str, transcript: "Transcript") -> str:
    return "".join(
        f"{shown(name)}\t{word.start:.2f}\t{word.end:.2f}\t{shown(word.text)}\t{word.confidence:.3f}\n"
        for word in transcript.words
    )


def _target(each: "Named", output: Path) -> Path:
    """The file of a recording; its own suffix stays, so that a.wav and a.flac do not share one."""
    from ds2f.inference.formats import FORMATS

    return output / f"{each.below}{FORMATS[absl_flags.FLAGS.format].suffix}"


@contextmanager
def _progress(total: int) -> Iterator[Callable[[float], object]]:
    """A bar on the terminal, unless transcripts are printed there; called with the speed after every recording."""
    printed = not absl_flags.FLAGS.output_dir and sys.stdout is not None and sys.stdout.isatty()
    if total < 2 or printed or sys.stderr is None or not sys.stderr.isatty():
        yield lambda speed: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]:.1f} x real time"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, speed=0.0)
        yield lambda speed: bar.update(task, advance=1, speed=speed)


if __name__ == "__main__":
    flags.run(main, positional=True)
