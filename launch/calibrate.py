"""Calibrates confidences and word times of a model: python -m launch.calibrate --run_dir=runs/an4_1p."""

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import decoding, flags, guard, long_recordings, next_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds2f.config import Config
    from ds2f.decode import Hypothesis
    from ds2f.types import Batch, Logits

_FARTHEST = 0.5  # seconds from an onset to the word that begins there

flags.define(only=("data_path", "run_dir", "device", "data", "apex.opt_level", "apex.dtype"))
decoding.define()
decoding.define_which()
absl_flags.DEFINE_integer(
    "onsets", 200, "Number of training recordings whose onsets tell the delay of word times.", lower_bound=0
)


def main(_: list[str]) -> None:
    """Measures on the validation set how often a word of a given posterior is right, and writes calibration.json.

    Training recordings tell how late the model names words. launch.transcribe and launch.evaluate use the file of the
    run, which has a calibration for each checkpoint and decoder. Like weights of a language model, a calibration must
    not come from utterances that the model was trained on.
    """
    run_dir = decoding.run_dir()

    from ds2f.checkpoint import load_config
    from ds2f.inference import calibration

    stored = load_config(run_dir)
    cfg = flags.config_from_flags(stored)
    if decoding.trained_on(stored, cfg, "val"):
        raise InputError(
            f"{run_dir} was trained on its validation set, on which its words are right too often; calibrate with "
            "--data.val_manifest=OTHER, recordings that the model does not know"
        )
    run, scores, right = _judged_words(cfg, run_dir)
    if not scores:
        raise InputError(f"{run_dir}: the model recognises no word of the validation set; train it first")
    found = calibration.measure(scores, right, _delays(cfg, run_dir))
    which, lm = absl_flags.FLAGS.which, decoding.settings()
    path = calibration.write(run_dir, found, run.params, run.stats, which=which, lm=lm)
    worth = f"{found.before:.3f} before, {found.after:.3f} after"
    if 0 in (found.right, found.words - found.right):
        worth = "not defined, since words of one kind only are there"
    print(
        f"{found.right} of {found.words} words right; normalised cross entropy {worth}; words are "
        f"named {1000 * found.calibration.delay:.0f} ms late "
        f"({found.onsets} onsets): {shown(str(path))}"
    )
    guard.tell(next_steps.text(("transcribe", f"--run_dir={run_dir}", "--format=json", "FILE")))


def _judged_words(cfg: "Config", run_dir: Path) -> tuple[decoding.OpenedRun, list[float], list[bool]]:
    """The run, log-posteriors of the words of its validation set, and whether each is right."""
    from ds2f import decode
    from ds2f.inference.timed_words import are_right
    from ds2f.runner.telemetry import terminal

    labels = cfg.model.labels
    scores: list[float] = []
    right: list[bool] = []
    with decoding.decoder(labels) as decoder:
        console = terminal()
        short = long_recordings.read_short("val", cfg, console)
        run = decoding.open_run(cfg, run_dir, short, which=absl_flags.FLAGS.which, console=console)

        def judge(batch: "Batch", logits: "Logits", hypotheses: "Sequence[Hypothesis]") -> None:
            for row, log_probs, best in decoding.utterances(batch, logits, hypotheses):
                words = decode.words(log_probs, best.tokens, labels)
                scores.extend(word.score for word in words)
                right.extend(are_right(run.split.references[row], [word.text for word in words]))

        decoding.evaluate(run, cfg, decoder, observe=judge)
    return run, scores, right


def _delays(cfg: "Config", run_dir: Path) -> list[float]:
    """Seconds from onsets in training recordings to the frames in which the model names their characters.

    Of the onsets after pauses within recordings, where words are known; else of their first ones.
    """
    from ds2f import decode
    from ds2f.data import audio_parts
    from ds2f.inference.calibration import later_onsets, onset
    from ds2f.runner.telemetry import terminal

    most = absl_flags.FLAGS.onsets
    if not most:
        return []
    frame = cfg.spect.stride_samples * cfg.model.time_stride / cfg.spect.sample_rate
    chosen = absl_flags.FLAGS.which
    cfg = attrs.evolve(cfg, data=attrs.evolve(cfg.data, num_workers=0))  # no fork with the threads of the first run
    split = long_recordings.read_short("train", cfg, terminal())
    examples = split.dataset.examples
    if most < len(examples):  # evenly spread over the split
        spread = examples.taken(place * len(examples) // most for place in range(most))
        references = {example.row: split.references[example.row] for example in spread}
        split = split._replace(dataset=attrs.evolve(split.dataset, examples=spread), references=references)
    run = decoding.open_run(cfg, run_dir, split, which=chosen, console=terminal())
    recordings = {example.row: example for example in run.split.dataset.examples}
    space = cfg.model.labels.index(" ") if " " in cfg.model.labels else None
    firsts: list[float] = []
    later: list[float] = []

    def align(batch: "Batch", logits: "Logits", hypotheses: "Sequence[Hypothesis]") -> None:
        for row, log_probs, _ in decoding.utterances(batch, logits, hypotheses):
            starts = decode.align(log_probs, recordings[row].labels, blank=cfg.model.blank)
            limit = cfg.data.max_recording_seconds
            path, start, samples = recordings[row].audio, recordings[row].start, recordings[row].num_samples
            loaded = audio_parts.load(path, start, samples, sample_rate=cfg.spect.sample_rate, max_seconds=limit)
            begins = onset(loaded.samples, cfg.spect.sample_rate)
            if starts and begins is not None:
                firsts.append(starts[0] * frame - begins)
            labels = recordings[row].labels
            words = [start * frame for label, start in zip(labels, (starts or ())[1:], strict=False) if label == space]
            for begins in later_onsets(loaded.samples, cfg.spect.sample_rate) if words else ():
                late = min((word - begins for word in words), key=abs)
                if abs(late) < _FARTHEST:
                    later.append(late)

    decoding.evaluate(run, cfg, decode.greedy, observe=align)
    return later or firsts


if __name__ == "__main__":
    flags.run(main)
