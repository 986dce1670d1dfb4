"""Evaluates a trained model: python -m launch.evaluate --run_dir=runs/an4_1p [--manifest=F] [--lm.path=lm.arpa]."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError
from launch import cutting, decoding, flags, guard, long_recordings, models, next_steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ds2f.config import Config
    from ds2f.decode import Hypothesis
    from ds2f.inference import Word
    from ds2f.inference.confidence import Calibration
    from ds2f.inference.saved_logits import About
    from ds2f.types import Batch, Logits
    from launch.models import Model

_WITH_WORDS = ("json", "jsonl")  # formats with times and confidences

flags.define(only=("data_path", "run_dir", "device", "data", "training.metric", "apex.opt_level", "apex.dtype"))
decoding.define()
decoding.define_which()
models.define()
cutting.define()
absl_flags.DEFINE_enum("split", "test", ["train", "val", "test"], "Split to evaluate.")
absl_flags.DEFINE_string(
    "manifest",
    "",
    "Evaluate this manifest in place of a split: a file of any format that launch.train reads, or a folder.",
)
absl_flags.DEFINE_string(
    "save_output",
    "",
    "Also write reference, transcript, errors, alignment and confidences of every utterance to this file.",
)
absl_flags.DEFINE_enum(
    "format",
    "auto",
    ["auto", "json", "jsonl", "trn"],
    "Format of --save_output: a JSON list, a JSON object per line, or transcripts for NIST's sclite, FILE.ref.trn and "
    "FILE.hyp.trn. auto: by the file's suffix, else json.",
)
absl_flags.DEFINE_string(
    "save_results", "", "Also write counts and rates to this file, with the fields of results.json and 95 % intervals."
)
absl_flags.DEFINE_string(
    "save_logits", "", "Also write the logits to this file (.npz), for launch.tune_lm --logits; a few KB per second."
)


class _Gathered(NamedTuple):
    """What outputs need of each utterance, by row of the manifest."""

    words: "dict[int, tuple[Word, ...]]"
    logits: "dict[int, NDArray[np.float32]]"


def main(_: list[str]) -> None:
    """Prints the word and character error rates of a run's model on a split or a manifest, with 95 % intervals."""
    chosen, run_dir = absl_flags.FLAGS, models.chosen()
    output, results = flags.output_file("save_output"), flags.output_file("save_results")
    saved, form = flags.output_file("save_logits"), _format(output)
    decoding.settings()  # its mistakes are told before torch is imported

    from ds2f import metrics
    from ds2f.files import json_text, write_atomically
    from ds2f.runner.evaluator import split_results
    from ds2f.runner.telemetry import errors_table, terminal

    model = models.find(run_dir)
    stored, lengths = model.stored, model.cutting()
    split, cfg = _set(flags.config_from_flags(stored))
    console, name = terminal(), "manifest" if chosen.manifest else split
    with decoding.decoder(cfg.model.labels) as decoder:
        whole, short = long_recordings.read(split, cfg, lengths)
        if saved and not short.references:
            raise InputError(
                "--save_logits: all recordings are too long for one piece; name parts of them in the manifest, by "
                "offset and duration"
            )
        run = decoding.open_run(cfg, run_dir, short, which=chosen.which, console=console, model=model)
        fitted = models.calibration(model, run.params, run.stats, shows=form in _WITH_WORDS)
        known = decoding.trained_on(stored, cfg, split)
        if known and split != "train":
            because = " (data.train_on_val)" if stored.data.train_on_val else ""
            console.print(f"this run was trained on the {name} set, too{because}", markup=False)
        gathered = _Gathered({}, {})

        def observe(batch: "Batch", logits: "Logits", hypotheses: "Sequence[Hypothesis]") -> None:
            for row, log_probs, best in decoding.utterances(batch, logits, hypotheses):
                if form in _WITH_WORDS:
                    gathered.words[row] = _words(log_probs, best, cfg, fitted)
                if saved:
                    gathered.logits[row] = log_probs.copy()

        found, cut = long_recordings.evaluate(
            run, whole, cfg, decoder, lengths=lengths, calibration=fitted, observe=observe
        )
    rows, heard = sorted(found.transcripts), decoding.transcripts(whole, found)
    if cut:
        remark = long_recordings.remark(cut, len(whole.references), lengths)
        console.print(remark + "; not in --save_logits" * bool(saved))
        gathered.words.update((row, transcript.words) for row, transcript in cut.items())
    if output:
        _write_output(output, form, heard, [gathered.words.get(row, ()) for row in rows])
    if saved:
        from ds2f.inference import saved_logits

        at_once = [(gathered.logits[row], each) for row, each in zip(rows, heard, strict=True) if row not in cut]
        about = _about(model, name, [each for _, each in at_once], known=known, run=run, labels=cfg.model.labels)
        saved_logits.save(saved, saved_logits.from_arrays(about, [logits for logits, _ in at_once]))
    rates = {name: split_results(found)}
    first = metrics.deciding_rate(cfg.training.metric, (each.reference for each in heard))
    intervals = metrics.bootstrap([metrics.count_errors(each.reference, each.transcript) for each in heard])
    if results:
        written = {"name": model.name, "seed": cfg.training.seed, "which": model.which, "engine": run.engine.name}
        written |= {"metric": first, **rates}
        written["intervals_95"] = {name: intervals._asdict()}
        written |= {"cut": {name: len(cut)}, "manifests": {name: run.split.manifest}}
        write_atomically(results, json_text(written | {"lm": attrs.asdict(decoding.settings())}, indent=2) + "\n")
    manifests = {name: run.split.manifest}
    console.print(errors_table(model.name, rates, manifests, intervals={name: intervals}, first=first))
    console.print("in parentheses: 95 % intervals over utterances (bootstrap)")
    if files := [str(path) for path in (output, results, saved) if path]:
        guard.tell(f"wrote {', '.join(files)}")
        _tell_next(output, saved)


def _tell_next(output: Path | None, saved: Path | None) -> None:
    """Prints the commands that use what was written."""
    steps: list[tuple[str, ...]] = []
    if output and absl_flags.FLAGS.format != "trn":
        steps.append(("report", f"--transcripts={output}"))
    if saved:
        steps.append(("tune_lm", f"--logits={saved}", "--lm.path=lm.arpa"))
    if steps:
        guard.tell(next_steps.text(*steps))


def _set(cfg: "Config") -> "tuple[str, Config]":
    """The split to evaluate, and the settings with the manifest of the command line."""
    from ds2f.files import is_local

    chosen = absl_flags.FLAGS
    if not chosen.manifest:
        return chosen.split, cfg
    if chosen["split"].present or chosen["data.test_manifest"].present:
        raise InputError("--manifest names what to evaluate; leave out --split and --data.test_manifest")
    if is_local(Path(chosen.manifest)) and not Path(chosen.manifest).exists():
        raise InputError(f"--manifest={chosen.manifest}: no such file or folder; check the path")
    return "test", attrs.evolve(cfg, data=attrs.evolve(cfg.data, test_manifest=chosen.manifest))


def _format(output: Path | None) -> str:
    """The format of the output file; empty without one."""
    chosen = absl_flags.FLAGS.format
    if output is None:
        if chosen != "auto":
            raise InputError(f"--format={chosen} is of --save_output: name the file, --save_output=FILE")
        return ""
    suffix = output.suffix.lower().removeprefix(".")
    return chosen if chosen != "auto" else suffix if suffix in ("jsonl", "trn") else "json"


def _words(
    log_probs: "NDArray[np.float32]", best: "Hypothesis", cfg: "Config", fitted: "Calibration"
) -> "tuple[Word, ...]":
    from ds2f.inference.timed_words import timed_words

    frame = cfg.spect.stride_samples * cfg.model.time_stride / cfg.spect.sample_rate
    end = len(log_probs) * frame
    return timed_words(log_probs, best.tokens, cfg.model.labels, frame=frame, end=end, calibration=fitted)


def _write_output(
    output: Path, form: str, heard: Sequence[decoding.Transcript], words: "Sequence[tuple[Word, ...]]"
) -> None:
    """Writes the transcripts of all utterances."""
    from ds2f.files import json_text, write_atomically
    from ds2f.inference import formats
    from ds2f.inference.timed_words import scored_transcript

    if form == "trn":
        names = formats.unique_fields([each.audio for each in heard])
        for kind, texts in (("ref", [each.reference for each in heard]), ("hyp", [each.transcript for each in heard])):
            lines = [f"{text} ({name})\n" for text, name in zip(texts, names, strict=True)]
            path = output.with_name(f"{output.name.removesuffix('.trn')}.{kind}.trn")
            write_atomically(path, "".join(lines))
        return
    rows = [scored_transcript(*each, placed) for each, placed in zip(heard, words, strict=True)]
    if form == "jsonl":
        content = "".join(json_text(row, ascii_only=False) + "\n" for row in rows)
    else:
        content = json_text(rows, indent=2, ascii_only=False) + "\n"
    write_atomically(output, content)


def _about(
    model: "Model",
    name: str,
    heard: Sequence[decoding.Transcript],
    *,
    known: bool,
    run: decoding.OpenedRun,
    labels: Sequence[str],
) -> "About":
    from ds2f.inference.saved_logits import About

    return About(
        run=model.name,
        which=model.which,
        split=name,
        manifest=run.split.manifest,
        trained_on=known,
        labels=tuple(labels),
        references=tuple(each.reference for each in heard),
        audio=tuple(each.audio for each in heard),
    )


if __name__ == "__main__":
    flags.run(main)
