"""Tests of transcribe's arguments: files, pipes, folders, patterns; and of its remarks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
from commands import variables

from ds2f import config, steps
from ds2f.checkpoint import Checkpoints
from ds2f.config import Config, ModelConfig
from ds2f.optim import adamw

RATE = 16000
SOUND = np.random.default_rng(0).integers(-9999, 9999, RATE).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an untrained run, and a recording."""
    folder = tmp_path_factory.mktemp("transcribe")
    cfg = config.resolve(Config(model=ModelConfig(hidden_size=8, hidden_layers=1)))
    (folder / "run").mkdir()
    (folder / "run/config.json").write_text(json.dumps(config.to_dict(cfg)))
    written = Checkpoints(folder / "run", cfg=cfg)
    written.save(1, steps.init_state(cfg, adamw(0.1), key=0), {}, score=1.0)
    assert written.close()
    soundfile.write(folder / "a.wav", SOUND, RATE)
    return folder


@pytest.fixture
def transcribe(launch, folder):
    """Runs the command; returns how it ended, with names and texts of its lines."""

    def run(*arguments, **options):
        ended = launch("transcribe", "--run_dir=run", "--device=cpu", *arguments, folder=folder, **options)
        assert "Traceback" not in ended.err
        return ended, [tuple(line.split("\t")) for line in ended.out.splitlines()]

    return run


@pytest.fixture(scope="module")
def text(launch, folder):
    ended = launch("transcribe", "--run_dir=run", "--device=cpu", "a.wav", folder=folder)
    assert (ended.status, ended.err) == (0, "")
    return ended.out.rstrip("\n").split("\t")[1]


def fed(path, content):
    """Makes a pipe, into which a thread writes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
    thread.start()
    return thread


def test_long_recordings_are_cut_in_pieces_of_the_given_lengths(transcribe, folder):
    quiet = np.random.default_rng(1).integers(-3, 3, 2 * RATE).astype(np.int16)
    soundfile.write(folder / "long.wav", np.concatenate([SOUND, quiet] * 10), RATE)
    found = {}
    for cutting in ("shortest=1", "shortest=6", "longest=12"):
        ended, _ = transcribe("--format=json", f"--cutting={cutting}", "long.wav")
        assert ended.status == 0, ended.err
        found[cutting] = len(json.loads(ended.out)["segments"])
    assert found["shortest=1"] > found["shortest=6"] > 0
    assert found["longest=12"] >= found["shortest=1"]


def test_given_parts_are_segments_and_what_has_none_is_reported(transcribe, folder, text):
    (folder / "parts.tsv").write_text("a\t0.2\t0.7\na\t0.5\t9\n")
    shutil.copy(folder / "a.wav", folder / "b.wav")
    ended, lines = transcribe("--format=json", "--segments=parts.tsv", "a.wav")
    assert ended.status == 0
    assert [(each["start"], each["end"]) for each in json.loads(ended.out)["segments"]] == [(0.2, 0.7), (0.5, 1.0)]
    ended, lines = transcribe("--segments=parts.tsv", "b.wav", "a.wav")
    assert (ended.status, [line[0] for line in lines]) == (1, ["a.wav"])
    assert "b.wav: has no line in the file of segments" in ended.err
    whole = folder / "whole.txt"
    whole.write_text("0\t1\n")
    assert transcribe("--segments=whole.txt", "b.wav", "a.wav")[1] == [("b.wav", text), ("a.wav", text)]


def test_a_detector_of_speech_leaves_short_recordings_whole(transcribe, text):
    pytest.importorskip("silero_vad", reason="pip install 'ds2f[vad]'")
    assert transcribe("--vad=silero", "a.wav")[1] == [("a.wav", text)]


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_standard_input_and_pipes_are_read_like_files(transcribe, folder, kind):
    path = folder / f"b.{kind}"
    soundfile.write(path, SOUND, RATE)
    expected = transcribe(path.name)[1][0][1]
    content = path.read_bytes()
    threads = [fed(folder / name, content) for name in ("stdin", "pipe")]
    ended, lines = transcribe("-", "pipe", given=folder / "stdin")
    assert (ended.status, ended.err) == (0, "")
    assert lines == [("-", expected), ("pipe", expected)]
    for thread in threads:
        thread.join(10)
    assert transcribe("-", given=path)[1] == [("-", expected)]


def test_a_pipe_with_nothing_or_with_no_sound_is_reported_and_the_next_is_read(transcribe, folder, text):
    threads = [fed(folder / "nothing", b""), fed(folder / "words", b"no sound at all")]
    ended, lines = transcribe("-", "nothing", "words", "a.wav")
    assert ended.status == 1
    assert lines == [("a.wav", text)]
    empty, nothing, words = ended.err.splitlines()
    assert empty.startswith("transcribe: -: ")
    assert nothing == "transcribe: nothing: nothing came; check the program that writes the recording"
    assert words.startswith("transcribe: words: not audio that can be read")
    assert "manifest" not in ended.err
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("writer", [None, b"", b"RIFF"], ids=["none", "nothing", "a part"])
def test_a_silent_pipe_is_given_up_and_the_next_recording_is_read(transcribe, folder, text, writer):
    (folder / "silent").unlink(missing_ok=True)
    os.mkfifo(folder / "silent")
    held = None if writer is None else os.open(folder / "silent", os.O_RDWR)
    if held:
        os.write(held, writer)
    ended, lines = transcribe("silent", "a.wav", "--pipe_timeout=0.5")
    if held:
        os.close(held)
    assert (ended.status, lines) == (1, [("a.wav", text)])
    assert ended.err.startswith("transcribe: silent: nothing came through the pipe for 0.5 s; check the program")


def test_a_file_that_cannot_be_written_ends_the_command_with_its_name(transcribe, folder):
    (folder / "full/b.wav.txt").mkdir(parents=True)  # the error of any file system that refuses
    shutil.copy(folder / "a.wav", folder / "b.wav")
    ended, _ = transcribe("--output_dir=full", "a.wav", "b.wav")
    assert (ended.status, ended.err) == (
        1,
        "transcribe: full/b.wav.txt: Is a directory; give another --output_dir\n",
    )
    assert (folder / "full/a.wav.txt").exists()


def test_a_folder_means_the_recordings_in_it_and_below_it(transcribe, folder, text):
    for name in ("many/b.wav", "many/below/C.WAV", "many/below/d.flac"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, SOUND, RATE)
    (folder / "many/note.txt").write_text("no recording")
    (folder / "many/e.m4a").write_bytes(b"needs a conversion")
    os.mkfifo(folder / "many/pipe.wav")  # is not waited for
    ended, lines = transcribe("many", "a.wav")
    assert ended.status == 0
    assert lines == [(name, text) for name in ("many/b.wav", "many/below/C.WAV", "many/below/d.flac", "a.wav")]
    assert ended.err.startswith("transcribe: many: left out: 1 .m4a: convert")
    (folder / "none").mkdir()
    ended, lines = transcribe("none", "a.wav")
    assert (ended.status, lines) == (1, [("a.wav", text)])
    assert ended.err == "transcribe: none: no recordings in the folder\n"


def test_linked_folders_are_read_and_links_to_nothing_are_reported(transcribe, folder, text):
    for name in ("linked", "elsewhere/below"):
        (folder / name).mkdir(parents=True)
    soundfile.write(folder / "elsewhere/below/a.wav", SOUND, RATE)
    (folder / "linked/part").symlink_to("../elsewhere")
    (folder / "linked/circle").symlink_to("../linked")
    (folder / "linked/gone.wav").symlink_to("../annexed/objects/b.wav")
    ended, lines = transcribe("linked")
    assert (ended.status, lines) == (1, [("linked/part/below/a.wav", text)])
    assert ended.err.count("\n") == 1
    assert "linked/gone.wav: No such file or directory" in ended.err


def test_a_pattern_means_what_matches_unless_a_file_has_its_name(transcribe, folder, text):
    for name in ("x1.wav", "x2.wav", "x[1].wav", "deep/er/x3.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "a.wav", folder / name)
    assert transcribe("x?.wav")[1] == [("x1.wav", text), ("x2.wav", text)]
    assert transcribe("x[1].wav")[1] == [("x[1].wav", text)]
    assert transcribe("deep/**/*.wav", f"{folder}/x[2].wav")[1] == [
        ("deep/er/x3.wav", text),
        (f"{folder}/x2.wav", text),
    ]
    ended, lines = transcribe("y*.wav", "a.wav")
    assert (ended.status, lines) == (1, [("a.wav", text)])
    assert ended.err == "transcribe: y*.wav: no file matches the pattern\n"


def test_remarks_are_counted_and_told_at_the_end(transcribe, folder, text):
    for index in range(7):
        soundfile.write(folder / f"stereo{index}.wav", np.stack([SOUND, -SOUND], axis=1), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    ended, lines = transcribe("silent.wav", *(f"stereo{index}.wav" for index in range(7)))
    assert ended.status == 0
    assert lines[1:] == [(f"stereo{index}.wav", text) for index in range(7)]
    names = ", ".join(f"stereo{index}.wav" for index in range(5))
    assert ended.err.splitlines() == [
        "transcribe: silent: every sample is zero (1 recording(s): silent.wav)",
        f"transcribe: its 2 channels cancel each other: the loudest is taken alone (7 recording(s): {names}, ...)",
    ]


def test_a_missing_file_is_reported_without_a_word_about_manifests(transcribe, text):
    ended, lines = transcribe("nowhere.wav", ".", "a.wav")
    assert ended.status == 1
    assert "transcribe: nowhere.wav: No such file or directory; check the path\n" in ended.err
    assert "manifest" not in ended.err
    assert ("a.wav", text) in lines


ENCODINGS = (
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)
NAMES = (b"caf\xe9.wav", "café.wav".encode(), "говор 语音 ş.wav".encode(), b"\xff\xfe\x80.wav")


@pytest.mark.parametrize("environment", ENCODINGS, ids=str)
def test_names_and_terminals_of_any_encoding(folder, text, environment):
    for name in NAMES:
        shutil.copy(folder / "a.wav", os.path.join(os.fsencode(folder), name))  # noqa: PTH118  bytes
    # A new interpreter: one that was forked would keep its encodings.
    command = [
        sys.executable,
        "-m",
        "launch.transcribe",
        "--run_dir=run",
        "--device=cpu",
        *NAMES,
        b"no\xe9.wav",
        "a.wav",
    ]
    ended = subprocess.run(command, cwd=folder, env=variables(environment), capture_output=True, check=False)
    assert b"Traceback" not in ended.stderr
    assert ended.stderr.endswith(b"no\\xe9.wav: No such file or directory; check the path\n")
    assert ended.returncode == 1
    *lines, last = ended.stdout.splitlines()
    assert [line.split(b"\t")[1:] for line in (*lines, last)] == [[text.encode()]] * (len(NAMES) + 1)
    assert lines[0].startswith(b"caf\\xe9.wav\t")
    assert lines[3].startswith(b"\\xff\\xfe\\x80.wav\t")
    assert last.startswith(b"a.wav\t")


def test_formats_are_written_into_the_tree_of_the_recordings(transcribe, folder, text):
    for name in ("tree/b.wav", "tree/below/c.flac"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, SOUND, RATE)
    for form, suffix in (("json", ".json"), ("srt", ".srt"), ("text", ".txt"), ("textgrid", ".TextGrid")):
        ended, lines = transcribe("tree", "a.wav", f"--format={form}", f"--output_dir=out/{form}")
        assert (ended.status, lines) == (0, [])
        written = {str(path.relative_to(folder / "out" / form)) for path in (folder / "out" / form).rglob("*.*")}
        assert written == {f"b.wav{suffix}", f"below/c.flac{suffix}", f"a.wav{suffix}"}
    read = json.loads((folder / "out/json/below/c.flac.json").read_text())
    assert " ".join(read["text"].split()) == " ".join(text.split())
    assert read["audio"] == "tree/below/c.flac"
    assert [word["word"] for segment in read["segments"] for word in segment["words"]] == text.split()


@pytest.mark.parametrize(
    "arguments", [("one/x.wav", "two/x.wav"), ("one", "two"), ("*/x.wav",), ("--files_from=both",)]
)
def test_recordings_never_share_a_file(transcribe, folder, arguments):
    for name in ("one/x.wav", "two/x.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, SOUND, RATE)
    (folder / "both").write_text("one/x.wav\ntwo/x.wav\n")
    ended, lines = transcribe(*arguments, "--output_dir=shared")
    assert (ended.status, lines) == (1, [])
    assert ended.err.startswith("transcribe: one/x.wav and two/x.wav would share the file shared/x.wav.txt; ")
    assert not (folder / "shared").exists()
    ended, _ = transcribe("one/x.wav", "./one/x.wav", "--output_dir=alone")
    assert (ended.status, ended.err) == (0, "wrote 2 transcripts below alone\n")


def test_what_is_done_is_left_out_when_it_is_started_again(transcribe, folder):
    arguments = ("--format=tsv", "--output_dir=again", "--resume")
    (folder / "late.wav").write_bytes(b"not yet")
    ended, _ = transcribe("a.wav", "late.wav", *arguments)
    assert ended.status == 1
    first = (folder / "again/a.wav.tsv").stat().st_mtime_ns
    soundfile.write(folder / "late.wav", SOUND, RATE)
    ended, _ = transcribe("a.wav", "late.wav", *arguments)
    assert (ended.status, ended.err) == (0, "wrote 1 transcript below again\n")
    assert (folder / "again/a.wav.tsv").stat().st_mtime_ns == first
    assert (folder / "again/late.wav.tsv").read_text().startswith("recording\tstart_ms\tend_ms\tword\tconfidence\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "transcribe: interrupted\n"),
        (("--output_dir=cut",), "transcribe: interrupted; the same command with --resume goes on\n"),
        (("--output_dir=cut", "--resume"), "transcribe: interrupted; the same command with --resume goes on\n"),
    ],
)
def test_an_interrupt_says_how_to_go_on(folder, arguments, said):
    (folder / "waits").unlink(missing_ok=True)
    os.mkfifo(folder / "waits")
    command = [sys.executable, "-m", "launch.transcribe", "--run_dir=run", "--device=cpu", "a.wav", "waits", *arguments]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as program:
        writer = (folder / "waits").open("wb")  # once the command has opened it; it stays silent
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=50)[1] == said
        writer.close()
    assert program.returncode == 130


def test_an_interrupt_ends_the_wait_for_a_silent_standard_input_without_limit(folder):
    reader, writer = os.pipe()
    command = [
        sys.executable,
        "-m",
        "launch.transcribe",
        "--run_dir=run",
        "--device=cpu",
        "--pipe_timeout=0",
        "a.wav",
        "-",
    ]
    pipes = {"stdin": reader, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, text=True, **pipes) as program:
        os.close(reader)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(8)
        began = time.monotonic()
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=50)[1] == "transcribe: interrupted\n"
    os.close(writer)
    assert program.returncode == 130
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("arguments", "status"), [((), 141), (("--output_dir=unseen",), 0)])
def test_transcripts_that_nobody_can_read_are_no_success(folder, arguments, status):
    command = [sys.executable, "-m", "launch.transcribe", "--run_dir=run", "--device=cpu", "a.wav", *arguments]
    for closed in (">&-", "<&- >&- 2>&-"):
        shell = ["bash", "-c", f'exec "$@" {closed}', "bash", *command]
        ended = subprocess.run(shell, cwd=folder, env=variables(), capture_output=True, text=True, check=False)
        assert ended.returncode == status, ended.stderr
    if arguments:
        assert (folder / "unseen/a.wav.txt").read_text()


def test_formats_are_printed(transcribe, folder, text):
    ended, _ = transcribe("a.wav", "a.wav", "--format=jsonl")
    assert [" ".join(json.loads(line)["text"].split()) for line in ended.out.splitlines()] == [
        " ".join(text.split())
    ] * 2
    ended, lines = transcribe("a.wav", "--word_times")
    assert [line[3] for line in lines] == text.split()
    assert all(line[0] == "a.wav" and 0 <= float(line[1]) <= float(line[2]) <= 1 for line in lines)
    ended, lines = transcribe("a.wav", "--format=tsv")
    assert lines[0] == ("recording", "start_ms", "end_ms", "word", "confidence")


def test_a_list_names_recordings(transcribe, folder, text):
    (folder / "list").write_text("a.wav\n\nnone.wav\na.wav\n")
    ended, lines = transcribe("--files_from=list")
    assert (ended.status, lines) == (1, [("a.wav", text)] * 2)
    assert ended.err == "transcribe: none.wav: No such file or directory; check the path\n"
    ended, lines = transcribe("--files_from=-", given=folder / "list")
    assert lines == [("a.wav", text)] * 2


@pytest.mark.parametrize(
    "arguments", [["~/a.wav", "~nobody-here/a.wav"], ["--files_from=~/homes"], ["--", "~/[a].wav"]]
)
def test_a_tilde_in_the_name_of_a_recording_is_the_home_folder(transcribe, folder, text, arguments):
    (folder / "homes").write_text("~/a.wav\n~nobody-here/a.wav\n")
    ended, lines = transcribe(*arguments, environment={"HOME": str(folder)})
    assert lines == [(f"{folder}/a.wav", text)]
    assert ended.err in ("", "transcribe: ~nobody-here/a.wav: No such file or directory; check the path\n")


def test_a_list_between_zero_bytes_has_names_with_line_breaks(transcribe, folder, text):
    name = "two\nlines\u2028and more.wav"
    shutil.copy(folder / "a.wav", folder / name)
    (folder / "list0").write_bytes(b"a.wav\0" + name.encode() + b"\0")
    ended, lines = transcribe("--files_from=list0")
    assert (ended.status, lines) == (0, [("a.wav", text), (r"two\x0alines\u2028and more.wav", text)])
    (folder / "windows").write_bytes(b"a.wav\r\n")
    assert transcribe("--files_from=windows")[1] == [("a.wav", text)]


@pytest.mark.parametrize("name", ["x" * 5000, "a.wav/b.wav", "x" * 300 + "*.wav"])
def test_names_that_no_file_can_have_are_told(transcribe, folder, text, name):
    (folder / "odd").write_text(f"{name}\na.wav\n")
    ended, lines = transcribe("--files_from=odd")
    assert (ended.status, lines) == (1, [("a.wav", text)])
    assert all(line.startswith("transcribe: ") for line in ended.err.splitlines())


@pytest.mark.parametrize("content", ["", "\n \n", "\0\0"])
def test_a_list_without_names_is_refused(transcribe, folder, content):
    (folder / "list of nothing").write_text(content)
    ended, lines = transcribe("--files_from=list of nothing")
    assert (ended.status, lines) == (1, [])
    assert ended.err == "transcribe: --files_from=list of nothing: names no recordings; give a path on every line\n"


def test_standard_input_is_a_list_or_a_recording(transcribe, folder):
    ended, _ = transcribe("-", "--files_from=-", given=folder / "a.wav")
    assert ended.status == 1
    assert "standard input is the list of --files_from already" in ended.err


@pytest.mark.parametrize("form", ["json", "srt", "vtt", "textgrid"])
def test_several_recordings_are_not_printed_as_one_file(transcribe, folder, form):
    ended, lines = transcribe("a.wav", "a.wav", f"--format={form}")
    assert (ended.status, lines) == (1, [])
    assert ended.err.startswith(f"transcribe: --format={form} holds one recording, and there are 2; add --output_dir")
    assert transcribe("a.wav", f"--format={form}")[0].status == 0


def test_alternatives_are_listed(transcribe):
    pytest.importorskip("flashlight.lib.text.decoder")
    ended, _ = transcribe("a.wav", "--nbest=3", "--lm.decoder=beam", "--lm.beam_size=5", "--format=json")
    (segment,) = json.loads(ended.out)["segments"]
    assert 1 <= len(segment["alternatives"]) <= 3
    assert segment["alternatives"][0] == segment["text"]


def test_hot_words_are_preferred(transcribe, folder):
    pytest.importorskip("flashlight.lib.text.decoder")
    (folder / "hot.txt").write_text("# a town\nqu zx\t60\n", encoding="utf-8")
    for given in ("--lm.hot_words=hot.txt", "--lm.hot_words=qu zx"):
        _, ((_, heard),) = transcribe("a.wav", given, "--lm.hot_words_boost=50", "--lm.beam_size_token=0")
        assert "QU ZX" in heard
    ended, _ = transcribe("a.wav", "--lm.hot_words=QU ZX", "--lm.hot_words_boost=50", "--nbest=2", "--format=json")
    assert ended.status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lm.hot_words=A,,B",), "--lm.hot_words=A,,B: entry 2: an empty hot word"),
        (("--lm.hot_words=A42",), "has characters outside the labels of the model: '2' '4'"),
        (("--lm.hot_words=none.txt",), "none.txt: No such file"),
        (("--lm.hot_words=A", "--lm.decoder=greedy"), "--lm.hot_words needs --lm.decoder=auto or beam"),
        (("--lm.hot_words_boost=3",), "--lm.hot_words_boost needs --lm.hot_words"),
        (("--lm.hot_words=A", "--nbest=26", "--format=json"), "raise the beam size"),
        (("--resume",), "--output_dir=FOLDER"),
        (("--output_dir=a.wav",), "is a file"),
        (("--word_times", "--format=srt"), "leave it out with --format=srt"),
        (("--word_times", "--format=trn"), "leave it out with --format=trn"),
        (("--nbest=3",), "--lm.decoder=beam"),
        (("--nbest=3", "--lm.decoder=beam"), "--format=json"),
        (("--nbest=3", "--lm.decoder=beam", "--lm.beam_size=2", "--format=json"), "raise the beam size"),
        (("--files_from=nowhere",), "nowhere"),
        (("--segments=nowhere",), "--segments=nowhere: No such file"),
        (("--segments=nowhere", "--vad=silero"), "leave out one"),
        (("--segments=nowhere", "--cutting=shortest=6"), "leave out one"),
        (("--segments=nowhere", "--stream"), "--segments has no effect with --stream"),
        (("--cutting=shortest=6", "--stream"), "--cutting has no effect with --stream"),
        (("--cutting=short=6",), "NAME=SECONDS, with shortest, longest"),
    ],
)
def test_contradicting_flags_are_refused(transcribe, arguments, said):
    ended, lines = transcribe("a.wav", *arguments)
    assert (ended.status, lines) == (1, [])
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
