"""Exports a model to ONNX, safetensors or torch: python -m launch.export --run_dir=runs/an4_best --output=exports/x."""

from pathlib import Path

from absl import flags as absl_flags

from ds2f.errors import InputError
from launch import decoding, export_files, export_page, flags, guard, next_steps, output_folder, progress_bars
from launch.export_files import Source

flags.define(only=("data_path", "run_dir", "data"))
decoding.define_which()
absl_flags.DEFINE_enum(
    "format",
    "onnx",
    ["onnx", "safetensors", "torch"],
    "Format: a graph for onnxruntime, Ascend's ATC and others; the weights with their configuration; a program of "
    "torch.export.",
)
absl_flags.DEFINE_string("output", "", "New folder of the exported model.")
absl_flags.DEFINE_integer(
    "opset", 16, "Opset of ONNX's operators: 11 to 13 for old CANN.", lower_bound=11, upper_bound=18
)
absl_flags.DEFINE_list(
    "shapes",
    [],
    "Fixed sizes, a file for each: utterances x frames of features, such as 1x621,8x621 (100 frames are a second); "
    "with --with_features utterances x samples. Empty: any.",
)
absl_flags.DEFINE_list(
    "stream_shapes",
    [],
    "Fixed sizes of the stream's graph of a unidirectional model: streams x frames of features a block, as 1x32.",
)
absl_flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "float16"],
    "Weights and arithmetic of an ONNX graph; inputs and outputs stay float32.",
)
absl_flags.DEFINE_enum(
    "quantize", "", ["", "int8"], "int8: recurrent and linear layers with 8-bit weights, for onnxruntime on CPUs."
)
absl_flags.DEFINE_boolean("with_features", False, "The ONNX graph takes samples and computes the features, too.")
absl_flags.DEFINE_list(
    "names", [], "Other names of a graph's inputs and outputs, such as features=spect,lengths=input_lengths."
)
absl_flags.DEFINE_integer(
    "check_utterances",
    24,
    "Utterances from all over the validation set that both models transcribe; 0: none.",
    lower_bound=0,
)
absl_flags.DEFINE_float(
    "max_wer_increase",
    1.0,
    "Percentage points by which the WER on these utterances may rise with int8 or float16; more, and nothing is "
    "written.",
    lower_bound=0.0,
)
absl_flags.DEFINE_string(
    "results", "", "Error rates for the model card: a file of launch.evaluate --save_results, beside the run's own."
)
absl_flags.DEFINE_list("languages", [], "Languages of the model, for the model card: codes of ISO 639, such as en.")
absl_flags.DEFINE_string("data_license", "", "Licence of the training data, for the model card, such as CC-BY-4.0.")


def main(_: list[str]) -> None:
    """Writes a folder with the model, its card (README.md) and, for fixed shapes, files for Ascend.

    The exported model is checked before the folder appears: log-probabilities of drawn inputs against the run's, and
    transcripts of the validation set.
    """
    run_dir, output = decoding.run_dir(), _output()
    _check()
    export_files.require_packages(absl_flags.FLAGS.format)
    from launch import export_checks

    source = _source(run_dir)
    beside = export_page.run_files(source, run_dir)
    with output_folder.filled(output) as folder:
        with progress_bars.waiting("writing"):
            written = export_files.write(source, folder)
        with progress_bars.waiting("checking"):
            checked = export_checks.check(source, written)
        export_page.write(source, folder, written, checked, beside)
    for line in checked.lines:
        guard.tell(line)
    guard.tell(f"wrote {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    if not absl_flags.FLAGS.with_features:  # commands compute features themselves
        guard.tell(next_steps.text(*_uses(output)))


def _uses(output: Path) -> list[tuple[str, ...]]:
    """Commands that take the exported model."""
    run, data_path = f"--run_dir={output}", absl_flags.FLAGS["data_path"]
    streams = [("transcribe", run, "--stream", "FILE")] if any(output.glob("stream*.onnx")) else []
    data = f"--data_path={data_path.value}" if data_path.present else "--manifest=test.csv"
    return [("transcribe", run, "FILE"), *streams, ("evaluate", run, data)]


def _source(run_dir: Path) -> Source:
    """The run's model, with what its exports say of themselves."""
    from ds2f.checkpoint import find_safetensors, load_model, safetensors_file
    from ds2f.checkpoint.exported import About, weights_digest, without_places

    which = absl_flags.FLAGS.which
    stored, params, stats = load_model(run_dir, which=which, warn=guard.tell)
    name, results = run_dir.resolve().name, export_page.results(run_dir)
    file = find_safetensors(run_dir)
    if file is not None:  # an export of the run: it has the run's name and results
        exported = safetensors_file.about(file)
        name, which, results = exported.run, exported.which, exported.results | results
    about = About(stored, weights_digest(params, stats), name, which, results)
    return Source(flags.config_from_flags(stored), params, stats, without_places(about))


def _output() -> Path:
    """The new folder.

    Raises:
      InputError: it is missing, or there is something in its place.
    """
    given = absl_flags.FLAGS.output
    if not given:
        raise InputError("--output is missing: give the folder of the exported model, such as --output=exports/an4")
    output = Path(given)
    output_folder.require_new(output)
    return output


def _check() -> None:
    """Refuses flags that contradict each other, before the model is loaded."""
    chosen = absl_flags.FLAGS
    if chosen.format != "onnx":
        idle = ["opset", "dtype", "quantize", "with_features", "names", "stream_shapes"]
        idle += ["shapes"] if chosen.format == "safetensors" else []
        named = [f"--{name}" for name in idle if chosen[name].present]
        if named:
            raise InputError(f"{', '.join(named)}: of ONNX graphs; leave out with --format={chosen.format}")
    if chosen.quantize and chosen.dtype != "float32":
        raise InputError("--quantize=int8 starts from float32 weights; leave out --dtype=float16")
    if chosen.quantize and chosen.opset < 13:
        raise InputError(f"--quantize=int8 is for onnxruntime, opset 13 and up; leave out --opset={chosen.opset}")


if __name__ == "__main__":
    flags.run(main)
