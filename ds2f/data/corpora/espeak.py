"""Speech from the espeak-ng library, with the same samples in every run.

This file also runs as a program of its own, so it imports the standard library alone. The program initialises espeak-ng
once, seeds it, and forks a child for every sentence. Inside one process, espeak-ng's state goes from sentence to
sentence, and a repeated sentence sounds different. The children all start from the state of their parent, whatever
their number and order. Without the fixed seed, espeak-ng would seed the noise of breathy voices from the clock.
"""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: espeak_Synth returns when all samples were handed to the callback
_RETURN_ON_ERROR = 0x8000  # espeakINITIALIZE_DONT_EXIT
_UTF8 = 1  # espeakCHARS_UTF8
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER


class SpeechError(RuntimeError):
    """espeak-ng failed; the message is its own."""


class Sentence(NamedTuple):
    """A sentence to speak, and its delivery."""

    text: str
    voice: str  # a voice of espeak-ng and a variant: "en-us+f3"
    rate: int  # words per minute
    pitch: int  # 0 to 100, 50 is the voice's own
    intonation: int  # range of the pitch, 0 to 100


class Speech(NamedTuple):
    """A spoken sentence."""

    number: int  # of the sentence, from 0
    samples: bytes  # int16, native byte order, one channel
    sample_rate: int  # hertz


@contextlib.contextmanager
def speaking(sentences: Sequence[Sentence], *, library: str, data: str, workers: int) -> Iterator[Iterator[Speech]]:
    """Speaks sentences in a separate process, which ends with the block.

    Args:
      sentences: the sentences to speak; the iterator that the block gets yields their speech in this order.
      library: path of espeak-ng's shared library.
      data: path of its folder ``espeak-ng-data``.
      workers: sentences spoken at the same time.

    Raises:
      SpeechError: espeak-ng does not start, or failed on a sentence.
    """
    with tempfile.TemporaryDirectory(prefix="espeak_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "espeak-ng-data").symlink_to(data)  # espeak-ng cuts paths off at 160 bytes
        order = {"library": library, "data": name, "workers": workers, "sentences": sentences}
        (folder / "order.json").write_text(json.dumps(order, allow_nan=False), encoding="utf-8")
        with subprocess.Popen(
            [sys.executable, "-I", __file__, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield _spoken(process, folder, len(sentences))
            finally:
                process.kill()


def _spoken(process: "subprocess.Popen[str]", folder: Path, count: int) -> Iterator[Speech]:
    assert process.stdout is not None
    assert process.stderr is not None
    sample_rate = int(process.stdout.readline() or 0)
    finished: set[int] = set()
    for index in range(count):
        while index not in finished:
            line = process.stdout.readline()
            if not line:
                words = process.stderr.read().strip() or f"it ended with status {process.wait()}"
                raise SpeechError(words.splitlines()[-1])
            finished.add(int(line))
        file = folder / f"{index}.pcm"
        yield Speech(index, file.read_bytes(), sample_rate)
        file.unlink()


def _serve(folder: Path) -> None:
    """The program: prints the sample rate, then the index of every finished sentence."""
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    library = ctypes.CDLL(order["library"])
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(order["data"]), _RETURN_ON_ERROR)
    if sample_rate <= 0:
        raise SystemExit(f"espeak-ng does not start with its data in {order['data']}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    print(sample_rate, flush=True)
    waiting = [(index, Sentence(*sentence)) for index, sentence in enumerate(order["sentences"])]
    waiting.reverse()
    running: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < order["workers"]:
            index, sentence = waiting.pop()
            child = os.fork()
            if child == 0:
                _speak_and_exit(library, sentence, folder / f"{index}.pcm")
            running[child] = index
        child, status = os.wait()
        index = running.pop(child)
        if status:
            raise SystemExit(f"espeak-ng failed on {order['sentences'][index]}, status {status}")
        print(index, flush=True)


def _speak_and_exit(library: ctypes.CDLL, sentence: Sentence, target: Path) -> None:
    """Speaks in a forked child, and ends the child without its parent's exit handlers."""
    status = 1
    try:
        samples = _speak(library, sentence)
        target.write_bytes(samples)
        status = 0 if samples else 2
    finally:
        os._exit(status)


def _speak(library: ctypes.CDLL, sentence: Sentence) -> bytes:
    chunks: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def take(samples: int | None, count: int, _: int | None) -> int:
        if samples and count:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(take)
    if library.espeak_SetVoiceByName(sentence.voice.encode()):
        return b""
    for parameter, value in ((_RATE, sentence.rate), (_PITCH, sentence.pitch), (_RANGE, sentence.intonation)):
        library.espeak_SetParameter(parameter, value, 0)
    text = sentence.text.encode()
    if library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _UTF8, None, None):
        return b""
    return b"".join(chunks)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
