"""What stands beside an exported model: its card, the calibration of its confidences, the files for Ascend."""

import hashlib
import json
import operator
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags as absl_flags

from ds2f.errors import InputError
from launch.export_files import Source, Written

if TYPE_CHECKING:
    from ds2f.export.card_examples import Interface
    from ds2f.export.card_training import SetSize
    from ds2f.export.model_card import Measured
    from launch.export_checks import Checked

_CALIBRATION = "calibration.json"
_BYTES = 1 << 20  # of results
_DATA_BYTES = 1 << 28  # of the record of the data


class RunFiles(NamedTuple):
    """What a run's folder holds beside the model, for an export."""

    sizes: "dict[str, SetSize]"  # of its data sets
    calibration: bytes | None


def run_files(source: Source, run_dir: Path) -> RunFiles:
    """Reads what a run's folder holds beside the model, before anything is exported.

    Raises:
      InputError: a file is damaged.
    """
    from ds2f.checkpoint.exported import folder_of
    from ds2f.files import read_bounded
    from ds2f.inference import calibration

    folder = folder_of(run_dir)
    path, content = folder / _CALIBRATION, None
    if path.exists():
        calibration.read(folder, source.params, source.stats, warn=lambda _: None)
        content = read_bounded(path, _BYTES, remedy="Calibrations are smaller.")
    return RunFiles(_sizes(folder), content)


def write(source: Source, folder: Path, written: list[Written], checked: "Checked", beside: RunFiles) -> None:
    """Writes what stands beside the model."""
    from ds2f.export import model_card
    from ds2f.files import write_atomically

    if beside.calibration is not None:
        write_atomically(folder / _CALIBRATION, beside.calibration)
    _write_ascend(source, folder, written)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    chosen = absl_flags.FLAGS
    page = model_card.text(
        source.about,
        interface=_interface(written),
        files=[model_card.File(str(path.relative_to(folder)), path.stat().st_size, _digest(path)) for path in files],
        command=_command(),
        measured=_measured(checked, written),
        checks=checked.lines,
        data=beside.sizes,
        data_license=chosen.data_license,
        languages=chosen.languages or (),
    )
    write_atomically(folder / "README.md", page)


def results(run_dir: Path) -> dict[str, Any]:
    """The run's results with those of ``--results``; {} where there are none.

    Raises:
      InputError: a file is no JSON object.
    """
    stored, given = run_dir / "results.json", absl_flags.FLAGS.results
    found = _object(stored, _BYTES) if stored.is_file() else {}
    return found | (_object(Path(given), _BYTES) if given else {})


def _object(path: Path, limit: int) -> dict[str, Any]:
    from ds2f.files import read_bounded

    try:
        found = json.loads(read_bounded(path, limit, remedy="Results are smaller."))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); write it again, or remove it") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: no JSON object; give a file of launch.evaluate --save_results")
    return found


def _interface(written: list[Written]) -> "Interface":
    """Format, inputs and outputs of the first file."""
    from ds2f.export.card_examples import Interface

    first, form = written[0], written[0].form
    kind = absl_flags.FLAGS.format
    if form is None:
        return Interface(kind, first.path.name, batch=first.batch)
    options = form.options
    inputs = ("samples" if options.with_features else "features", "lengths")
    return Interface(
        kind,
        first.path.name,
        inputs=tuple(map(options.name, inputs)),
        outputs=tuple(map(options.name, ("log_probs", "output_lengths"))),
        dtype="int8" if form.quantised else options.dtype,
        opset=options.opset,
        batch=options.batch,
        longest=options.frames,
        from_samples=options.with_features,
        others=tuple(each.path.name for each in written[1:] if each.form and not each.form.streams),
        streams=tuple(each.path.name for each in written if each.form and each.form.streams),
    )


def _measured(checked: "Checked", written: list[Written]) -> "Measured | None":
    import torch

    from ds2f.export.model_card import Measured
    from ds2f.runner.device import processor

    if not checked.speeds:
        return None
    return Measured(
        checked.load_seconds,
        checked.speeds[0].real_time_factor,
        checked.speeds[0].seconds,
        f"{processor.name()} ({processor.capability()})",
        torch.get_num_threads(),
        "onnxruntime" if written[0].form else "torch",
        (checked.speeds[1].batch, checked.speeds[1].real_time_factor),
    )


def _sizes(run_dir: Path) -> "dict[str, SetSize]":
    """Utterances of the run's data sets, as its record of them tells.

    Raises:
      InputError: the record is damaged.
    """
    from ds2f.export.card_training import SetSize

    path = run_dir / "data.json"
    if not path.is_file():
        return {}
    content = _object(path, _DATA_BYTES).get("content", {})
    try:
        splits, large = content.get("splits", {}), content.get("large", {})
        return {
            name: SetSize(operator.index(large[name][0]) if name in large else len(rows))
            for name, rows in splits.items()
        }
    except (AttributeError, TypeError, IndexError, KeyError) as error:
        raise InputError(f"{path}: no record of data sets ({error}); write it again, or remove it") from error


def _write_ascend(source: Source, folder: Path, written: list[Written]) -> None:
    """The folder ``ascend`` beside graphs of whole utterances and fixed sizes."""
    fixed = [each for each in written if each.form and not each.form.streams and each.form.options.frames]
    forms = [each.form for each in fixed if each.form]
    if not forms or any(form.quantised or form.options.with_features for form in forms):
        return
    from ds2f.export import ascend, ascend_limits, onnx_file
    from ds2f.files import write_atomically

    options = forms[0].options
    streams = [each.path for each in written if each.form and each.form.streams and each.form.options.frames]
    found = [line for path in (*(each.path for each in fixed), *streams)
             for line in ascend_limits.problems(onnx_file.graph(path))]  # fmt: skip
    export = ascend.AscendExport(
        about=source.about,
        shapes=tuple(ascend.Shape(form.options.batch or 1, form.options.frames or 1) for form in forms),
        opset=options.opset,
        dtype=options.dtype,
        inputs=(options.name("features"), options.name("lengths")),
        outputs=(options.name("log_probs"), options.name("output_lengths")),
        streams=tuple((path.name, onnx_file.input_shapes(onnx_file.graph(path))) for path in streams),
        problems=tuple(dict.fromkeys(found)),
    )
    (folder / "ascend").mkdir()
    for name, content in ascend.contents(export).items():
        write_atomically(folder / "ascend" / name, content)


def _command() -> list[str]:
    """The words of this command, with the last parts of its paths: the machine's folders are nobody's business."""
    return ["python", "-m", "launch.export", *(re.sub(r"[^=,]*/(?=[^/])", "", word) for word in sys.argv[1:])]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
