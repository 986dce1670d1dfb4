"""``launch.transcribe --stream``: a recording that is still going on, its text as it is spoken."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from absl import flags as absl_flags

from ds2f.config import EndpointConfig
from ds2f.errors import InputError
from ds2f.text import shown
from launch import flags, guard, recordings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ds2f.inference import Recognizer
    from ds2f.inference.transcript import Final, Result

_CHUNK_SECONDS = 0.1  # of a file, read at its own pace
_READ_BYTES = 1 << 16  # at most, at a time: two seconds at 16 kHz
_ONLY_WITH = ("stream_rate", "stream_block", "paced")
_NOT_WITH = (
    "output_dir",
    "resume",
    "files_from",
    "nbest",
    "workers",
    "max_hours",
    "vad",
    "segments",
    "cutting",
    "pipe_timeout",
)
_FORMATS = ("text", "jsonl")


def define() -> None:
    """Registers the flags. A command calls it at module level."""
    program = sys.argv[0]  # --help lists the flags of this name
    absl_flags.DEFINE_boolean(
        "stream",
        False,
        "Transcribe one recording while it goes on: a file, or raw PCM (16-bit little-endian, one channel) from a pipe "
        'or "-". A line for every segment when it ends; the text so far on the terminal, or with --format=jsonl. '
        "Ctrl-C ends the recording.",
        module_name=program,
    )
    absl_flags.DEFINE_integer(
        "stream_rate", 16000, "With --stream, samples per second of raw PCM.", lower_bound=1000, module_name=program
    )
    absl_flags.DEFINE_float(
        "stream_block",
        0.32,
        "With --stream, seconds of sound that are computed at once; more cost less and come later.",
        lower_bound=0.01,
        upper_bound=60.0,
        module_name=program,
    )
    absl_flags.DEFINE_boolean(
        "paced", True, "With --stream, read a file no faster than it plays; --nopaced: as fast as possible.",
        module_name=program,
    )  # fmt: skip
    flags.define_section("endpoint", EndpointConfig)


def check(given: list[str]) -> bool:
    """Whether ``--stream`` is wanted.

    Raises:
      InputError: a flag has no effect with it or without it, or the arguments are not one recording.
    """
    chosen = absl_flags.FLAGS
    only = [*_ONLY_WITH, *(name for name in chosen if name.startswith("endpoint."))]
    idle = [name for name in (_NOT_WITH if chosen.stream else only) if chosen[name].present]
    if idle:
        raise InputError(f"--{idle[0]} has no effect {'with' if chosen.stream else 'without'} --stream; leave one out")
    if chosen.stream and chosen.format not in _FORMATS:
        raise InputError(f"--format={chosen.format} is of whole recordings; with --stream, give text or jsonl")
    if chosen.stream and chosen.word_times and chosen.format != "text":
        raise InputError("--word_times is for --format=text; --format=jsonl has the times of all words")
    if chosen.stream and len(given) != 1:
        raise InputError(f"--stream transcribes one recording, {len(given)} are given: a file, a pipe, or -")
    return chosen.stream


def transcribe(name: str, recognizer: "Recognizer") -> int:
    """Transcribes one recording while it goes on; returns the exit status.

    The recording ends with its file or pipe, or with Ctrl-C. All results are given in either case, and also before the
    error of a recording that breaks off.
    """
    from ds2f.inference.session import Session

    cfg, chosen = recognizer.cfg, absl_flags.FLAGS
    endpointing = flags.section_from_flags("endpoint", EndpointConfig)
    frame = recognizer.grid.samples / recognizer.grid.rate
    session = Session(recognizer, block=max(1, round(chosen.stream_block / frame)), endpointing=endpointing)
    if cfg.spect.normalize != "global":
        guard.tell(
            f"transcribe: spect.normalize={cfg.spect.normalize}: a stream is normalised by its own beginning, and its "
            "text may differ from the whole recording's; train with --spect.normalize=global"
        )
    failure, line = None, _Line()
    with _Interrupts() as interrupts:
        try:
            for samples in _samples(name, cfg.spect.sample_rate, interrupts):
                _give(session.feed(samples), line)
        except _Ended:
            pass  # Ctrl-C: the text of what was heard follows
        except InputError as error:
            failure = error
        _give(session.finish(), line)
    if failure is None and not session.seconds and not interrupts.asked:
        failure = InputError(f"{name}: nothing came; check the program that writes the recording")
    if failure:
        guard.tell(f"transcribe: {failure}")
    return 1 if failure else 0


class _Ended(Exception):  # noqa: N818  # no error
    """The recording is to end."""


class _Interrupts:
    """Requests by Ctrl-C to end the recording. One during a computation takes effect at the next wait for samples."""

    def __init__(self) -> None:
        self.asked = self._waiting = False

    def __enter__(self) -> "_Interrupts":
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait for samples, which a request ends."""
        self._waiting = True  # before the look: a request between the two would wait with the read
        try:
            if self.asked:
                raise _Ended
            yield
        finally:
            self._waiting = False

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt  # the second time
        self.asked = True
        if self._waiting:
            raise _Ended


class _Line:
    """The text so far, on the last line of a terminal; nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._is_shown = False

    def show(self, text: str) -> None:
        """Replaces the line by a text, or by the end of one that is too long."""
        from rich.cells import cell_len

        if self._terminal:
            columns, text = self._columns(), shown(text)
            while cell_len(text) >= columns:
                text = text[1:]
            self._write(f"\r{text}\x1b[K")
            self._is_shown = True

    def clear(self) -> None:
        """Takes the line away, for a line of standard output."""
        if self._is_shown:
            self._write("\r\x1b[K")
            self._is_shown = False

    def _columns(self) -> int:
        try:
            return max(2, os.get_terminal_size(sys.stderr.fileno()).columns or 80)
        except OSError:
            return 80

    def _write(self, text: str) -> None:
        with suppress(OSError):  # the terminal is closed
            sys.stderr.write(text)
            sys.stderr.flush()


def _samples(name: str, sample_rate: int, interrupts: _Interrupts) -> Iterator["NDArray[np.float32]"]:
    """The samples of a file or a pipe at the rate wanted, as they come.

    Raises:
      InputError: the recording cannot be read, or not to its end.
    """
    source = recordings.open_pipe(name)
    if not isinstance(source, str):
        yield from _of_pipe(source, name, sample_rate, interrupts)
        return
    from ds2f.data.audio_blocks import Recording

    size, begun, read = max(1, round(_CHUNK_SECONDS * sample_rate)), time.monotonic(), 0
    for block in Recording(source, sample_rate=sample_rate, name=name):
        for begin in range(0, len(block), size):
            chunk = block[begin : begin + size]
            read += len(chunk)
            with interrupts.waiting():
                if absl_flags.FLAGS.paced:
                    time.sleep(max(0.0, begun + read / sample_rate - time.monotonic()))
            yield chunk


def _of_pipe(source: BinaryIO, name: str, sample_rate: int, interrupts: _Interrupts) -> Iterator["NDArray[np.float32]"]:
    """Raw PCM as it comes."""
    from ds2f.data.pcm import PcmDecoder

    decoder, content = PcmDecoder(absl_flags.FLAGS.stream_rate, sample_rate=sample_rate, name=name), b" "
    while content:
        with interrupts.waiting():
            try:
                content = os.read(source.fileno(), _READ_BYTES)
            except OSError as error:
                raise InputError(f"{name}: {error.strerror}; the recording ends here") from error
        yield decoder.decode(content) if content else decoder.finish()


def _give(results: "list[Result]", line: _Line) -> None:
    """Prints finals as lines, and shows partials."""
    from ds2f.inference import formats
    from ds2f.inference.transcript import Final

    chosen = absl_flags.FLAGS
    for result in results:
        if chosen.format == "jsonl":
            print(formats.json_result(result), flush=True)
        elif not isinstance(result, Final):
            line.show(result.text)
        else:
            line.clear()
            for text in _lines(result):
                print(text, flush=True)


def _lines(final: "Final") -> list[str]:
    words = final.segment.words
    if not absl_flags.FLAGS.word_times:
        return [shown(final.segment.text)] if words else []
    return [f"{word.start:.2f}\t{word.end:.2f}\t{shown(word.text)}\t{word.confidence:.3f}" for word in words]
