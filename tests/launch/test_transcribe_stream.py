"""Tests of ``launch.transcribe --stream``: raw PCM from pipes, files at their own pace, the terminal, interruptions."""

import fcntl
import json
import os
import pty
import signal
import struct
import termios

import attrs
import numpy as np
import pytest
import soundfile
from commands import commands
from speaking_model import CFG, RATE, model, sound

from ds2f import config, steps
from ds2f.checkpoint import Checkpoints
from ds2f.config import Config, ModelConfig
from ds2f.optim import adamw

SOUND = (sound(6) * 32767).clip(-32768, 32767).astype("<i2")
PCM = SOUND.tobytes()
FLAGS = ("--run_dir=run", "--device=cpu", "--stream")
RAW = f"--stream_rate={RATE}"
SHORT = ("--endpoint.silence=0.1", "--endpoint.no_text=0.4", "--endpoint.longest=2", "--stream_block=0.1")


def write_run(folder, cfg, params=None, stats=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(cfg)))
    state = steps.init_state(cfg, adamw(0.1), key=0)
    if params:
        state = state._replace(params=params, stats=stats)
    written = Checkpoints(folder, cfg=cfg)
    written.save(1, state, {}, score=1.0)
    assert written.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a unidirectional and a bidirectional run, and a recording."""
    folder = tmp_path_factory.mktemp("stream")
    write_run(folder / "run", CFG, *model())
    per_utterance = attrs.evolve(CFG, spect=attrs.evolve(CFG.spect, normalize="utterance"))
    write_run(folder / "utterance", per_utterance, *model())
    write_run(folder / "both", config.resolve(Config(model=ModelConfig(hidden_size=4, hidden_layers=1))))
    soundfile.write(folder / "a.wav", SOUND, RATE)
    (folder / "pcm").write_bytes(PCM)
    (folder / "nothing").write_bytes(b"")
    return folder


@pytest.fixture
def stream(launch, folder):
    def run(*arguments, **options):
        ended = launch("transcribe", *FLAGS, *arguments, folder=folder, **options)
        assert "Traceback" not in ended.err
        return ended

    return run


@pytest.fixture(scope="module")
def text(launch, folder):
    """The text of the whole recording."""
    ended = launch("transcribe", "--run_dir=run", "--device=cpu", "a.wav", folder=folder)
    assert (ended.status, ended.err) == (0, "")
    words = ended.out.rstrip("\n").split("\t")[1]
    assert len(words) > 5
    return words


def test_raw_pcm_and_a_file_have_the_text_of_the_whole_recording(stream, folder, text):
    ended = stream("-", RAW, given=folder / "pcm")
    assert (ended.status, ended.err) == (0, "")
    assert " ".join(ended.out.split()) == text
    ended = stream("a.wav", "--nopaced")
    assert (ended.status, ended.err, " ".join(ended.out.split())) == (0, "", text)


def test_segments_are_lines_and_json_has_partials_and_one_end(stream, folder):
    lines = stream("a.wav", "--nopaced", *SHORT).out.splitlines()
    assert len(lines) > 2
    ended = stream("-", RAW, "--format=jsonl", *SHORT, given=folder / "pcm")
    results = [json.loads(line) for line in ended.out.splitlines()]
    finals = [each for each in results if each["type"] == "final"]
    assert [each["text"] for each in finals] == [*lines, ""]
    assert [each["last"] for each in finals] == [False] * len(lines) + [True]
    assert results[-1] == {"type": "final", "start": 6.0, "end": 6.0, "text": "", "words": [], "last": True}
    assert {each["type"] for each in results} == {"final", "partial"}
    words = stream("a.wav", "--nopaced", "--word_times", *SHORT).out.splitlines()
    assert [line.split("\t")[2] for line in words] == " ".join(lines).split()
    times = [float(part) for line in words for part in line.split("\t")[:2]]
    assert times == sorted(times)
    assert times[-1] <= 6


def started(folder, *arguments, given, out):
    """The command, reading a descriptor and writing another."""
    with (folder / ".err").open("wb") as err, os.fdopen(out, "wb") as standard_output:
        return commands().start(
            "launch.transcribe",
            *(*FLAGS, *arguments),
            folder=folder,
            out=standard_output,
            err=err,
            given=f"/proc/self/fd/{given}",
        )


def test_hot_words_are_preferred(stream):
    pytest.importorskip("flashlight.lib.text.decoder")
    plain = stream("a.wav", "--nopaced", *SHORT, "--lm.decoder=beam")
    ended = stream("a.wav", "--nopaced", *SHORT, "--lm.hot_words=bc ca", "--lm.hot_words_boost=40")
    assert ended.status == 0
    assert ended.out.count("BC CA") > plain.out.count("BC CA")


def test_a_pipe_is_heard_while_it_is_written_with_odd_numbers_of_bytes(folder):
    """A final is there before the recording has ended, and half samples wait for their other half."""
    (given, writing), (reading, out) = os.pipe(), os.pipe()
    program = started(folder, RAW, *SHORT, "-", given=given, out=out)
    os.close(given)
    with os.fdopen(writing, "wb", buffering=0) as source, os.fdopen(reading) as lines:
        for begin in range(0, 21007, 3001):
            source.write(PCM[begin : begin + 3001])
        first = lines.readline()  # the pipe is open still
        assert program.poll() is None
        source.write(PCM[21007:] + b"x")  # half a sample more
        source.close()
        rest = lines.read()
    assert (program.wait(60), (folder / ".err").read_text()) == (0, "")
    expected = commands().run("transcribe", *FLAGS, "a.wav", "--nopaced", *SHORT, folder=folder).out
    assert first + rest == expected


def test_a_file_is_read_at_its_own_pace(stream):
    assert stream("a.wav").seconds > 6
    assert stream("a.wav", "--nopaced").seconds < 6


@pytest.mark.parametrize("where", ["file", "pipe"])
def test_an_interrupt_ends_the_recording_in_order(folder, where):
    (given, writing), (reading, out) = os.pipe(), os.pipe()
    os.write(writing, PCM[: len(PCM) // 2])
    source = ("a.wav",) if where == "file" else ("-", RAW)
    program = started(folder, *source, *SHORT, "--format=jsonl", given=given, out=out)
    with os.fdopen(reading) as lines:
        results = [json.loads(lines.readline())]
        program.send_signal(signal.SIGINT)
        results += map(json.loads, lines)
    for end in (given, writing):
        os.close(end)
    assert (program.wait(60), (folder / ".err").read_text()) == (0, "")
    assert [each.get("last", False) for each in results] == [False] * (len(results) - 1) + [True]
    assert results[-2]["type"] == "final"
    assert results[-1]["end"] < 6


def test_the_text_so_far_is_redrawn_on_the_terminal(folder):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 6, 0, 0))  # six columns
    with (folder / ".out").open("wb+") as out, os.fdopen(theirs, "wb") as err:
        arguments = ("a.wav", "--nopaced", "--endpoint.longest=3600", "--stream_block=0.1")
        program = commands().start("launch.transcribe", *FLAGS, *arguments, folder=folder, out=out, err=err)
        assert program.wait(60) == 0
    drawn = os.read(ours, 1 << 16).decode()
    os.close(ours)
    (final,) = (folder / ".out").read_text().splitlines()
    *partials, cleared = drawn.removeprefix("\r").split("\r")
    assert cleared == "\x1b[K"
    assert len(partials) > 3
    assert all(len(each.removesuffix("\x1b[K")) <= 5 for each in partials), "one line"
    assert partials[-1] == f"{final[-5:]}\x1b[K"
    assert partials[0].removesuffix("\x1b[K") == final[: len(partials[0]) - 3]


def test_the_reader_of_the_text_may_leave(folder):
    reading, out = os.pipe()
    given = os.open(os.devnull, os.O_RDONLY)
    program = started(folder, *SHORT, "a.wav", "--nopaced", given=given, out=out)
    for end in (reading, given):
        os.close(end)
    assert (program.wait(60), (folder / ".err").read_text()) == (141, "")


def test_what_was_heard_is_given_before_the_error_of_a_recording_that_breaks_off(stream, folder):
    long = np.tile(SOUND, 12)  # read in blocks
    soundfile.write(folder / "long.flac", long, RATE)
    content = bytearray((folder / "long.flac").read_bytes())
    begin = len(content) * 2 // 3
    content[begin : begin + 5000] = bytes(5000)
    (folder / "hurt.flac").write_bytes(content)
    ended = stream("hurt.flac", "--nopaced", *SHORT)
    assert ended.status == 1
    assert ended.err.startswith("transcribe: hurt.flac: ")
    assert len(ended.err.splitlines()) == 1
    assert len(ended.out.splitlines()) > 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-",), "-: nothing came; check the program that writes the recording"),
        (("none.wav",), "none.wav"),
        ((), "--stream transcribes one recording, 0 are given"),
        (("a.wav", "a.wav"), "--stream transcribes one recording, 2 are given"),
        (("a.wav", "--format=srt"), "--format=srt is of whole recordings"),
        (("a.wav", "--format=jsonl", "--word_times"), "--word_times is for --format=text"),
        (("a.wav", "--output_dir=out"), "--output_dir has no effect with --stream"),
        (("a.wav", "--nbest=2"), "--nbest has no effect with --stream"),
        (("a.wav", "--nostream", "--stream_block=1"), "--stream_block has no effect without --stream"),
        (("a.wav", "--nostream", "--endpoint.silence=1"), "--endpoint.silence has no effect without --stream"),
        (("a.wav", "--run_dir=both"), "a bidirectional model cannot stream"),
    ],
)
def test_what_cannot_be_streamed_is_refused(stream, folder, arguments, said):
    ended = stream(*arguments, given=folder / "nothing")
    assert (ended.status, ended.out) == (1, "")
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1


def test_an_audio_file_on_standard_input_is_not_taken_for_samples(stream, folder):
    ended = stream("-", given=folder / "a.wav")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("transcribe: -: a WAV file, but raw PCM is expected")


def test_a_run_normalised_per_utterance_streams_with_a_remark(stream):
    ended = stream("a.wav", "--nopaced", "--run_dir=utterance")
    assert ended.status == 0
    assert ended.err.startswith("transcribe: spect.normalize=utterance: ")
    assert len(ended.err.splitlines()) == 1


def test_help_is_quick_and_lists_the_flags(launch, tmp_path):
    said = launch("transcribe", "--help", folder=tmp_path).out
    assert all(name in said for name in ("--[no]stream ", "--stream_rate", "--endpoint.no_text", "--[no]paced"))
