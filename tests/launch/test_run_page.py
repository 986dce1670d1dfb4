"""The page of a run: what it shows of a made-up run's files, and how it looks in headless Chromium."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from browser import LAYOUT, chromium, started

from ds2f.inference import Word
from ds2f.metrics import bootstrap, count_errors
from launch.report.run_page import line_charts, run_report, run_results, time_shares, utterance_views
from launch.report.run_page.run_record import read

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>&\"'\u202e\x1b"
TINY = (
    *("--data.dataset=tones", "--data.batch_size=3", "--data.num_workers=0", "--device=cpu", "--training.epochs=2"),
    *("--model.hidden_size=8", "--model.hidden_layers=1", "--optim.schedule=constant", "--optim.learning_rate=0.01"),
    *("--apex.opt_level=O0", "--training.evaluate_test"),
)


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_run(folder, *, epochs=3, steps=40, seed=1):
    """A made-up run: four epochs, one of them with numbers that are not finite."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(5, epochs * steps + 1, 5):
        values = {"loss": 80.0 / step, "grad_norm": None if step == 10 else 100.0 / step, "loss_scale": 32768.0}
        values |= {"learning_rate": 1e-3 * step, "utterances_per_second": 40.0}
        lines.append(json.dumps({"kind": "train", "iteration": step} | values))
        if step % steps == 0:
            epoch = step // steps
            values = {"train_loss": 8 / epoch, "val_loss": 9 / epoch, "val_wer": 90 / epoch, "val_cer": 50 / epoch}
            values |= {"learning_rate": 1e-3, "utterances_per_second": 40.0, "seconds": 12.5 * epoch}
            lines.append(json.dumps({"kind": "epoch", "iteration": step, "epoch": epoch} | values))
    write_lines(folder / "metrics.jsonl", lines)
    (folder / "config.json").write_text("{}")
    flags = {"data_path": "data", "training.epochs": epochs, "training.seed": seed, "of.another_version": HOSTILE}
    write_lines(folder / "flags.txt", [f"--{name}={value}" for name, value in flags.items()])
    counts = {"wer": 0, "cer": 0, "word_errors": 30, "words": 100, "char_errors": 60, "chars": 400, "unreadable": 1}
    about = {"name": HOSTILE, "epochs": epochs, "torch": "2.13.0", "device": "CPU", "seed": seed, "metric": "wer"}
    (folder / "results.json").write_text(json.dumps(about | {"val": counts}))
    return folder


def written(ended):
    """The lines of a training about its files."""
    return [line for line in ended.err.splitlines() if line.startswith("wrote ")]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(launch, tone_corpus, tmp_path_factory):
    """A run of two epochs on tones."""
    folder = tmp_path_factory.mktemp("trained")
    flags = (*TINY, f"--data_path={tone_corpus}", "--run_dir=run")
    ended = launch("train", *flags, folder=folder)
    assert ended.status == 0, ended.err
    assert written(ended) == ["wrote run/results.json", "wrote run/report.html"]
    return folder / "run"


def test_a_training_leaves_a_page_with_sounds_figures_and_times(trained):
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 3, "every validation utterance can be played"
    assert page.count('href="data:image/png') == 2 * 3, "spectrogram and posteriors of three utterances"
    for told in ("waiting for data", "backward pass", "evaluation", "Errors on the validation set", "95 % interval"):
        assert told in page, told
    assert page.count('class="mark best"') == page.count('class="mark kept"') == 3, "on loss, WER and CER"
    assert "cannot be read" not in page
    assert len(page) < run_report.PAGE_BYTES


def test_a_run_whose_recordings_and_checkpoints_are_gone_has_a_page_that_says_so(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data_path": "gone"}))
    page = run_report.page(read(run))
    assert "The recordings cannot be read any more" in page
    assert "<audio" not in page

    (run / "config.json").write_text(json.dumps(config))
    shutil.rmtree(run / "checkpoints")
    page = run_report.page(read(run))
    assert "No utterance is drawn, since the model cannot be read" in page
    assert page.count("<audio") == 3


def test_an_interrupted_run_has_a_page_without_sounds(launch, tone_corpus, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/results.json").unlink()
    page = run_report.page(read(tmp_path / "run"), quick=True)
    assert "<audio" not in page
    assert "data:image" not in page
    assert "Transcripts of the validation set" in page


def test_a_page_that_cannot_be_written_fails_no_training(launch, tone_corpus, tmp_path):
    (tmp_path / "run/report.html").mkdir(parents=True)
    ended = launch("train", *TINY, f"--data_path={tone_corpus}", "--run_dir=run", folder=tmp_path)
    assert (ended.status, written(ended)) == (0, ["wrote run/results.json"]), ended.err
    expected = "the page of the run is not written: run/report.html cannot be written: Is a directory"
    assert expected in (tmp_path / "run/log.txt").read_text()


def test_a_run_of_sounds_beyond_the_limit_has_a_page_without_them(trained, monkeypatch):
    whole = run_report.page(read(trained))
    monkeypatch.setattr(run_report, "PAGE_BYTES", len(whole.encode()) - 1)
    page = run_report.page(read(trained))
    assert "<audio" in whole
    assert "<audio" not in page
    assert "would make this page too large" in page


def test_names_and_values_of_a_run_stay_text(run):
    lines = [{"split": "val", "audio": HOSTILE, "speaker": HOSTILE, "reference": f"A {HOSTILE}", "hypothesis": HOSTILE}]
    write_lines(run / "transcripts.jsonl", map(json.dumps, lines))
    write_lines(run / "log.txt", [f"2026-11-29 12:00:00 {HOSTILE}", "2026-11-29 12:00:00 step 7 skipped: NaN"])
    page = run_report.page(read(run))
    assert "&lt;script&gt;alert(1)" in page
    assert "Skipped steps: 1" in page
    assert page.count("<script") == 0
    assert not re.search("[\u202e\x1b\ud800-\udfff]", page), "nothing is hidden or reversed"
    assert "default-src 'none'" in html.unescape(page)


def test_the_interval_is_the_bootstraps_and_only_of_the_transcripts_of_the_result(run):
    rows = [
        {"split": "val", "audio": "a", "reference": "A B", "hypothesis": "A" if n < 30 else "A B"} for n in range(50)
    ]
    write_lines(run / "transcripts.jsonl", map(json.dumps, rows))
    (run / "results.json").write_text(
        json.dumps({"val": {"word_errors": 30, "words": 100, "char_errors": 30, "chars": 100}})
    )
    (found,) = run_results.set_results(read(run))
    counts = [count_errors(row["reference"], row["hypothesis"]) for row in rows]
    assert found.rates[0].interval == bootstrap(counts).wer
    write_lines(run / "transcripts.jsonl", map(json.dumps, rows[:40]))
    (found,) = run_results.set_results(read(run))
    assert found.rates[0].interval is None


def test_the_seconds_of_a_run_are_divided_as_its_measured_steps(run):
    times = {"training_seconds": 100.0, "data_seconds": 20.0, "evaluation_seconds": 8.0, "checkpoint_seconds": 2.0}
    steps = {"step_seconds": 4.0, "forward_seconds": 1.0, "backward_seconds": 2.0, "optimizer_seconds": 0.5}
    lines = [{"kind": "epoch", "iteration": 40 * n, "epoch": n, **times} for n in (1, 2)]
    lines.append({"kind": "step_time", "iteration": 3, **steps, "all_reduce_seconds": 0.0})
    write_lines(run / "metrics.jsonl", map(json.dumps, lines))
    (run / "results.json").write_text(json.dumps({"wall_seconds": 230.0}))
    assert time_shares.parts(read(run)) == {
        "waiting for data": 40.0,
        "forward pass": 40.0,
        "backward pass": 80.0,
        "optimizer": 20.0,
        "rest of the steps": 20.0,
        "evaluation": 16.0,
        "checkpoints": 4.0,
        "all else": pytest.approx(10.0),
    }


def test_long_transcripts_are_left_out_of_the_alignments_and_cut_on_the_page(run):
    long = {"split": "val", "audio": "long.wav", "reference": "AB " * 400_000, "hypothesis": "BA " * 400_000}
    rows = [long, {"split": "val", "audio": "b.wav", "reference": "A B", "hypothesis": "A", "speaker": "ann"}]
    write_lines(run / "transcripts.jsonl", map(json.dumps, rows))
    started = time.process_time()
    page = run_report.page(read(run))
    assert time.process_time() - started < 5
    assert len(page) < 100_000
    assert "1 of 2 utterances" in page
    assert ">ann<" in page


def test_published_systems_stand_beside_a_result_on_an4s_test_set_only(run):
    published = json.loads((ROOT / "configs/results/published.json").read_text())
    sizes = {"words": published["words"], "chars": published["chars"]}
    for words, named in ((sizes["words"], True), (sizes["words"] + 1, False)):
        counts = {"word_errors": 50, "char_errors": 50} | sizes | {"words": words}
        (run / "results.json").write_text(json.dumps({"name": "mine", "test": counts}))
        assert ("Kaldi tri3" in run_report.page(read(run))) == named


def test_a_run_without_results_and_with_damaged_lines_has_a_page(run):
    (run / "results.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "iteration": "x"}\n[1]\n{"kind": "epoch", "iteration": 1e999, "epoch": 3}\n{"ki')
    found = read(run)
    assert found.problems == ["metrics.jsonl: 1 line cannot be read", "log.txt is missing"]
    assert "No result yet: 3 of 3 epochs" in run_report.page(found)


def test_an_error_of_the_page_itself_is_a_line_of_the_log():
    code = "from pathlib import Path; from launch import train; from launch.report.run_page import run_report\n"
    code += "run_report.write = lambda *_, **__: 1 / 0\ntrain._write_report(Path('run'), print, quick=True)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "the page of the run is not written: ZeroDivisionError: division by zero\n"


def test_a_folder_without_a_run_is_named(launch, tmp_path):
    ended = launch("report", "nowhere", folder=tmp_path)
    assert ended.status == 1
    assert ended.err.startswith("report: nowhere holds no run")


def test_thinning_keeps_every_peak():
    points = [(float(step), 1.0 if step != 777 else 50.0) for step in range(5000)]
    thin = line_charts.thinned(points)
    assert len(thin) <= line_charts.MOST_POINTS
    assert (777.0, 50.0) in thin


@hypothesis.given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=9), st.booleans())
def test_the_ticks_of_any_values_are_few_and_inside(values, log):
    points = list(enumerate(values))
    drawn = line_charts.chart("a", "b", [line_charts.Series("c", points)], x_label="epoch", log=log)
    for ticks, low, high in ((drawn.x_ticks, 50, 350), (drawn.y_ticks, 20, 200)):
        assert 1 <= len(ticks) <= 8
        assert all(low <= tick.place <= high for tick in ticks)


def test_a_chart_of_values_on_a_line_is_a_line():
    drawn = line_charts.chart("a", "b", [line_charts.Series("c", [(0, 0.0), (1, 5.0), (2, 10.0)])], x_label="epoch")
    (first, middle, last) = (tuple(map(float, point.split(","))) for point in drawn.lines[0].parts[0].split())
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.1)
    assert first[1] > last[1], "upwards"
    assert [tick.label for tick in drawn.y_ticks] == ["0", "2", "4", "6", "8", "10"]


def test_words_in_time_share_no_place():
    words = [Word("W" * (1 + n % 9), 0.1 * n, 0.1 * n + 0.08, 0.9) for n in range(40)]
    placed, lanes = utterance_views.place(words, line_charts.Scale(0.0, 4.1, 54, 350))
    assert len(placed) == len(words)
    for lane in range(lanes):
        row = [each for each in placed if each.text and each.y == lane * 19]
        assert all(one.x + 8 * len(one.text) < other.x for one, other in pairwise(row))


def test_several_runs_are_compared_with_means_over_seeds(launch, tmp_path):
    runs = [write_run(tmp_path / f"run{seed}", seed=seed) for seed in (1, 2)]
    other = write_run(tmp_path / "other", epochs=4)
    for number, folder in enumerate((*runs, other)):
        results = json.loads((folder / "results.json").read_text())
        results["val"] |= {"word_errors": 10 + number}
        (folder / "results.json").write_text(json.dumps(results | {"name": folder.name}))
    ended = launch("report", "run1", "run2", "other", "--output=page.html", folder=tmp_path)
    assert (ended.status, ended.err) == (0, "wrote page.html\n")
    page = html.unescape((tmp_path / "page.html").read_text())
    assert "validation WER: 10.50 % (4.15 to 16.85)" in page  # t(0.975, 1) is 12.706
    assert "<strong>3</strong>: run1, run2" in page
    assert "seeds 1, 2" in page


@pytest.fixture(scope="module")
def pages(launch, trained):
    """The pages of a run and of two runs."""
    with (trained / "transcripts.jsonl").open("a") as file:
        words = "LONG" * 60 + " " + "A B " * 30
        row = {"split": "val", "audio": f"{HOSTILE}/{'name' * 40}.wav", "reference": words, "hypothesis": "B " * 40}
        file.write(json.dumps(row) + "\n")
    other = write_run(trained.parent / ("other-" + "name" * 20))
    for arguments, output in ((["run"], "one.html"), (["run", other.name], "two.html")):
        ended = launch("report", *arguments, f"--output={output}", folder=trained.parent)
        assert ended.status == 0, ended.err
    return [trained.parent / name for name in ("one.html", "two.html")]


def test_the_pages_fit_every_width_and_ask_for_nothing(pages, tmp_path_factory):
    chromium()
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    shots = Path(os.environ.get("DS2F_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    asked, said = [], []
    with started() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        for path in pages:
            page.goto(path.as_uri())
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                for width in (360, 768, 1440):
                    page.set_viewport_size({"width": width, "height": 800})
                    page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
                    page.screenshot(path=shots / f"report-{path.stem}-{width}-{scheme}.png", full_page=True)
                    assert page.evaluate(LAYOUT) == [], (path.name, width)
                found = axe.Axe().run(page).response["violations"]
                assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
            figures = page.locator("svg[role=img]")
            assert figures.count() > 5
            for figure in figures.all():
                texts = figure.locator("text").all_text_contents()
                assert any(re.search("epoch|%|time, ", text) for text in texts), "an axis has its unit"
                assert figure.locator("desc").text_content()
    foreign = [url for url in asked if not url.startswith(("data:", "file:"))]
    assert foreign == []
    assert [url for url in asked if url.startswith("file:")] == [path.as_uri() for path in pages]
    assert said == [], "the policy of the page refuses nothing of the page's own"
