"""The commands of the pages run in their order, on a tiny corpus in the place of AN4 and with a tiny model.

Only flags that make training small are added. So run folders, manifests and files that a command writes are those that
the next command reads.
"""

import re
import shlex
import shutil

import numpy as np
import pages
import pytest
import soundfile
from pages import README, ROOT

PAGES = (README, ROOT / "configs/README.md", ROOT / "launch/README.md", ROOT / "launch/report/README.md")
PROGRAMS = {"train", "splice", "evaluate", "transcribe", "build_lm", "tune_lm", "calibrate", "report"}
RATE = 16000
TONES = {"A": 400, "B": 1500}  # hertz
TINY = (
    *("--device=cpu", "--apex.opt_level=O0", "--data.batch_size=2", "--data.num_workers=0", "--training.epochs=10"),
    *("--model.hidden_size=16", "--model.hidden_layers=1", "--model.time_stride=4", "--model.frequency_stride=16"),
    *("--model.dropout=0", "--model.intermediate_ctc=0", "--spect.num_mels=0", "--augmentation.speeds=1"),
    *("--augmentation.frequency_masks=0", "--augmentation.time_masks=0", "--augmentation.warp_min=1"),
    *("--augmentation.warp_max=1", "--optim.name=adamw", "--optim.schedule=constant", "--optim.learning_rate=0.01"),
    *("--optim.average_decay=0", "--optim.weight_decay=0"),
    "--novisualization.tensorboard",
)


def say(folder, name, text, suffix="wav"):
    """Writes an utterance: a tone per word, a pause after each; returns its row of a manifest."""
    seconds = np.arange(RATE // 4) / RATE
    parts = [np.pad(0.3 * np.sin(2 * np.pi * TONES[word] * seconds), (0, RATE // 5)) for word in text.split()]
    samples = np.concatenate(parts)
    noise = 0.001 * np.random.default_rng(len(name)).standard_normal(len(samples))
    soundfile.write(folder / f"{name}.{suffix}", samples + noise, RATE, subtype="PCM_16")
    (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    return f"{name}.{suffix},{name}.txt\n"


@pytest.fixture
def workplace(tmp_path):
    """A folder with the flagfiles, the stored results, a corpus called AN4, and two recordings."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    data = tmp_path / "data"
    data.mkdir()
    for split, speakers, count in (("train", ("ann", "bob"), 8), ("val", ("cid", "dee"), 2), ("test", ("eve",), 2)):
        rows = [say(data, f"{split}{index}-{who}", "A B") for who in speakers for index in range(count)]
        (data / f"an4_{split}_manifest.csv").write_text("".join(rows), encoding="utf-8")
    say(tmp_path, "one", "A B")
    say(tmp_path, "another", "B A", suffix="flac")
    return tmp_path


def test_the_commands_run_in_their_order(launch, workplace):
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")
    if not shutil.which("irstlm"):
        pytest.skip("irstlm is not installed: apt-get install irstlm")
    done = []
    for page in PAGES:
        for program, flags, output in commands(page):
            words = (program, *flags)
            if words in done:
                continue
            done.append(words)
            small = (*TINY, f"--training.max_steps={100 if 'words' in flags[0] else 3}") if program == "train" else ()
            ended = launch(program, *flags, *small, folder=workplace, limit=120)
            assert ended.status == 0, f"{pages.name(page)}: {shlex.join(words)}\n{ended.err}"
            assert not output or ended.out == (ROOT / output).read_text(encoding="utf-8"), output
    assert {program for program, *_ in done} == PROGRAMS
    assert (workplace / "runs/an4_best/results.json").exists()


def commands(page):
    """Program, flags and output file of the commands in a page's blocks, but those of quickstarts and large corpora."""
    for block in pages.blocks("bash"):
        if block.page != page:
            continue
        for command in pages.parsed(str(block), block.text):
            program, flags = pages.launcher(command)
            if program.removeprefix("launch.") in PROGRAMS and not re.search(
                "quickstart|8p|librispeech|synthetic", " ".join(flags)
            ):
                yield program.removeprefix("launch."), flags, command.output


def test_the_commands_for_recordings_of_ones_own_run_in_their_order(launch, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "data").mkdir()
    for who in ("anna", "bob", "cid", "dee"):
        (tmp_path / "recordings" / who).mkdir(parents=True)
        for index in range(1, 4):
            say(tmp_path / "recordings" / who, f"{index:04d}", "A B")
    page = ROOT / "ds2f/data/README.md"
    block = next(block for block in pages.blocks("bash") if block.page == page and "--output=data/mine" in block.text)
    programs = []
    for command in pages.parsed(str(block), block.text):
        program, flags = pages.launcher(command)
        if program:
            small = (*TINY, "--training.max_steps=3") if program == "launch.train" else ()
            ended = launch(program.removeprefix("launch."), *flags, *small, folder=tmp_path, limit=120)
            assert ended.status == 0, f"{shlex.join(flags)}\n{ended.err}"
            programs.append(program.removeprefix("launch."))
    assert programs == ["prepare", "train", "evaluate", "transcribe"]
    assert ended.out.startswith("recordings/anna/0001.wav\t")
