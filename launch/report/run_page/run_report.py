"""Writes the page of a run."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import ds2f
from ds2f.errors import InputError
from ds2f.runner.telemetry import duration
from launch import flagfiles
from launch.report.run_page import (
    curves,
    html_page,
    log_remarks,
    run_results,
    run_settings,
    spoken_samples,
    time_shares,
    utterance_views,
)
from launch.report.run_page.run_record import RunRecord, number, read, text

if TYPE_CHECKING:
    from ds2f.runner.splits import Split
    from launch.report.run_page.run_record import Spoken
    from launch.report.run_page.utterance_views import View

FILE = "report.html"
PAGE_BYTES = 5 << 20
_MOST_EPOCHS = 200  # rows of the table


class _Heard(NamedTuple):
    """What needs the recordings."""

    clips: "Mapping[Spoken, str]" = MappingProxyType({})
    views: "Sequence[View]" = ()
    missing: str = ""  # why there is none of it


def write(
    run_dir: Path,
    *,
    output: Path | None = None,
    quick: bool = False,
    splits: "Mapping[str, Split] | None" = None,
) -> Path:
    """Writes the page of a run.

    Args:
      run_dir: the run's folder.
      output: the page; None: ``report.html`` in the run's folder.
      quick: read no recordings and compute nothing with the model, as after an interruption.
      splits: the splits that a training has read already.

    Returns:
      The path of the page.

    Raises:
      InputError: the folder holds no run, or the page cannot be written.
    """
    output = output or run_dir / FILE
    html_page.write(output, page(read(run_dir), quick=quick, splits=splits))
    return output


def page(run: RunRecord, *, quick: bool = False, splits: "Mapping[str, Split] | None" = None) -> str:
    """The page of a run as text, of at most ``PAGE_BYTES``: without sounds and figures of utterances if need be."""
    set_name, spoken = spoken_samples.of_one_set(run)
    samples = spoken_samples.samples(spoken)
    chosen = [each.spoken for each in spoken_samples.mixed(samples)]
    heard = _Heard() if quick or not spoken else _hear(run, set_name, chosen, splits)
    groups = [(kind, list(group)) for kind, group in groupby(samples, lambda each: each.kind)]
    context = _context(run) | {"set_name": set_name, "samples": groups, **_errors(spoken, quick=quick)}
    for found in (heard, _Heard(missing="Sounds and figures of utterances would make this page too large.")):
        whole = html_page.render("run.html", **context, clips=found.clips, views=found.views, unheard=found.missing)
        if len(whole.encode()) <= PAGE_BYTES:
            break
    return whole


def _context(run: RunRecord) -> dict[str, Any]:
    """What the templates need of the run's own files."""
    sets = run_results.set_results(run)
    test = next((each for each in sets if each.name == "test"), None)
    known = run_results.published(flagfiles.shipped(Path("configs/results")), test)
    changed, unchanged = run_settings.settings(run)
    kept = curves.kept_iterations(run.folder, run.flags.get("checkpointing.folder", ""))
    return {
        "run": run,
        "status": run_results.status(run),
        "sets": sets,
        "systems": run_results.systems_chart(run, test, known) if known and test else None,
        "charts": list(curves.charts(run, kept)),
        "epochs": list(_epochs(run)),
        "time": time_shares.time_chart(run),
        "remarks": log_remarks.remarks(run.log),
        "facts": list(_facts(run)),
        "changed": changed,
        "unchanged": unchanged,
        "commands": run_settings.commands(run),
    }


def _hear(run: RunRecord, set_name: str, chosen: "Sequence[Spoken]", splits: "Mapping[str, Split] | None") -> _Heard:
    """Reads recordings and runs the model; what is not there any more is told in a sentence."""
    try:
        sounds = utterance_views.open_sounds(run, set_name, chosen, splits)
        clips = utterance_views.clips(sounds, chosen)
    except (InputError, OSError) as error:
        return _Heard(
            missing=f"The recordings cannot be read any more, so none is played or drawn: {text(str(error), 300)}"
        )
    try:
        return _Heard(clips, utterance_views.views(run, sounds, chosen))
    except (InputError, OSError) as error:
        return _Heard(clips, missing=f"No utterance is drawn, since the model cannot be read: {text(str(error), 300)}")


def _errors(spoken: "Sequence[Spoken]", *, quick: bool) -> dict[str, Any]:
    found = spoken_samples.errors(spoken, quick=quick)
    if found is None:
        return {"errors": None, "errors_rows": [], "word_rows": [], "speaker_rows": []}
    counts = found.found["counts"]
    kinds = {"said": "in the reference", "hits": "right", "substitutions": "substituted", "deletions": "left out"}
    kinds |= {"insertions": "inserted", "rate": "error rate, %"}
    return {
        "errors": found,
        "errors_rows": [
            [name, *(_shown(counts[unit][kind]) for unit in ("words", "characters"))] for kind, name in kinds.items()
        ],
        "word_rows": [
            [row["word"] or "(inserted)", row["said"], row["wrong"]] for row in found.found["words"] if row["wrong"]
        ],
        "speaker_rows": [
            [row["speaker"], row["said"], row["errors"], _shown(row["rate"])]
            for row in found.found["speakers"]
            if row["speaker"]
        ],
    }


def _epochs(run: RunRecord) -> Iterator[list[str]]:
    """The rows of the table of epochs; of many epochs, the last ones."""
    for line in run.epochs[-_MOST_EPOCHS:]:
        fields = ("train_loss", "val_loss", "val_wer", "val_cer")
        yield [f"{number(line.get('epoch')) or 0:g}", *(_shown(number(line.get(field))) for field in fields)]


def _facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Machine, versions and sizes."""
    found = run.results
    for name, field in (("Device", "device"), ("Precision", "amp"), ("PyTorch of the training", "torch")):
        if isinstance(found.get(field), str):
            yield name, text(found[field], 200)
    for name, field in (("Ranks", "ranks"), ("Seed", "seed"), ("Global batch", "batch_size"), ("Steps", "steps")):
        if (value := number(found.get(field))) is not None:
            yield name, f"{value:.0f}" if field == "seed" else f"{value:,.0f}"
    for name, field in (
        ("Utterances per second", "utterances_per_second"),
        ("Speech per second", "audio_seconds_per_second"),
    ):
        if (value := number(found.get(field))) is not None:
            yield name, f"{value:,.1f}" + (" s" if field.startswith("audio") else "")
    if (seconds := number(found.get("wall_seconds"))) is not None and seconds >= 0:
        yield "Duration", duration(seconds)
    yield "Page written with", f"ds2f {ds2f.__version__}, Python {platform.python_version()}, {platform.platform()}"


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
