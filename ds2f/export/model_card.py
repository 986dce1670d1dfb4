"""The page beside an exported model: what it is, how it was made, how good and how fast it is, how to use it.

A model travels further than the folder of its run. ``README.md`` tells who receives it what the files do not: data and
recipe, error rates with their intervals, limits, speed, digests. It begins with the front matter that Hugging Face
reads (https://huggingface.co/docs/hub/model-cards), so that the folder can be uploaded as it is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import attrs

from ds2f.checkpoint.exported import About
from ds2f.config import Config, SpectConfig
from ds2f.export import card_examples, card_training
from ds2f.export.card_examples import Interface
from ds2f.export.card_training import SPLITS, SetSize, mapping, number
from ds2f.export.quoting import block, cell, code, table, yaml_text

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")  # an identifier, as Hugging Face lists them
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # a code of ISO 639, with a script or country
_FORMS = {"onnx": "ONNX", "safetensors": "safetensors", "torch": "a program of torch.export"}
_NO_LICENCE = "not stated; ask who trained the model before you pass it on"


class File(NamedTuple):
    """A file of the export."""

    name: str  # relative to the folder
    size: int  # bytes
    sha256: str  # 64 hexadecimal digits


class Measured(NamedTuple):
    """The speed of the exported model, measured when it was made."""

    load_seconds: float
    real_time_factor: float  # seconds of computing per second of sound, one recording at a time
    seconds: float  # of sound, that were computed
    processor: str  # its name
    threads: int = 1
    engine: str = ""  # as of --engine
    batched: tuple[int, float] | None = None  # recordings at a time, and the real-time factor then


def text(
    about: About,
    *,
    interface: Interface,
    files: Sequence[File],
    command: Sequence[str],
    measured: Measured | None = None,
    checks: Sequence[str] = (),
    data: Mapping[str, SetSize] | None = None,
    data_license: str = "",
    languages: Sequence[str] = (),
) -> str:
    """The page in Markdown. It depends on the arguments alone; values from outside are escaped.

    Args:
      about: what the model says of itself. With ``intervals_95`` in its results, as ``launch.evaluate --save_results``
        writes them, rates have intervals.
      interface: format, inputs and outputs of the model.
      files: the files of the folder, but for this page.
      command: the words of the command that made the export.
      measured: the model's speed; None: not measured.
      checks: what comparisons with the run have found, a line each.
      data: sizes of the data sets by name: train, val, test.
      data_license: licence of the data, in the user's words; empty: not stated.
      languages: codes of ISO 639, as in ``en``; empty: not stated.
    """
    sections = {
        "Use": card_examples.use(interface, about.cfg),
        "Results": card_training.results(about.results) + _checks(interface, checks),
        "Data": card_training.data(about, data or {}),
        "Recipe": card_training.recipe(about),
        "Features and labels": _features(about.cfg),
        "Limits": _limits(about.cfg, interface, languages),
        "Size and speed": _speed(files, measured),
        "Files": _files(files, command),
    }
    head = _front_matter(about, interface, data_license, languages), _summary(about, interface, data_license, languages)
    return "\n".join((*head, *(f"## {name}\n\n{section}" for name, section in sections.items())))


def _front_matter(about: About, interface: Interface, licence: str, languages: Sequence[str]) -> str:
    named = licence.strip().lower()
    known = _LICENCE.fullmatch(named)
    lines = [f"license: {yaml_text(named if known else 'other' if named else 'unknown')}"]
    if named and not known:
        lines.append(f"license_name: {yaml_text(licence.strip())}")
    if codes := [each for each in languages if _LANGUAGE.fullmatch(each)]:
        lines += ["language:", *(f"- {yaml_text(each)}" for each in codes)]  # without quotes, "no" is a boolean
    lines += ["library_name: ds2f", "pipeline_tag: automatic-speech-recognition", "tags:"]
    lines += [f"- {tag}" for tag in ("speech", "deepspeech2", "ctc", interface.form)]
    lines += ["metrics:", "- wer", "- cer", *_model_index(about)]
    return "\n".join(("---", *lines, "---", ""))


def _model_index(about: About) -> Iterator[str]:
    """Error rates in the form of Hugging Face; nothing without one."""
    corpus, entries = yaml_text(about.cfg.data.dataset or "an4"), []
    for split in SPLITS:
        rates = mapping(about.results.get(split))
        values = [(rate, value) for rate in ("wer", "cer") if (value := number(rates.get(rate))) is not None]
        if values:
            entries += [
                "  - task:",
                "      type: automatic-speech-recognition",
                "    dataset:",
                f"      name: {corpus}",
                f"      type: {corpus}",
                f"      split: {split}",
                "    metrics:",
                *(line for rate, value in values for line in (f"    - type: {rate}", f"      value: {value:.4f}")),
            ]
    if entries:
        yield from ("model-index:", f"- name: {yaml_text(about.run)}", "  results:", *entries)


def _summary(about: About, interface: Interface, licence: str, languages: Sequence[str]) -> str:
    model = about.cfg.model
    ways = "bidirectional" if model.bidirectional else "unidirectional"
    return (
        f"# {code(about.run)}\n\n"
        f"A DeepSpeech2 for speech recognition, trained with ds2f and exported as {_FORMS[interface.form]}: two "
        f"convolutions, {model.hidden_layers} {ways} {model.rnn_type.upper()} layers of {model.hidden_size} units, CTC "
        f"over {len(model.labels)} labels. Checkpoint {code(about.which)}, digest of the weights "
        f"{code(about.weights)}.\n\n"
        f"Language: {', '.join(map(code, languages)) or 'not stated'}. Licence of the data: "
        f"{code(licence) if licence.strip() else _NO_LICENCE}.\n"
    )


def _checks(interface: Interface, checks: Sequence[str]) -> str:
    """What is known of this form of the model, beside the rates of the run."""
    page = ""
    if interface.dtype != "float32":
        own = "" if interface.from_samples else ": `launch.evaluate` tells its own rates"
        page += (
            "\nThe rates of a training are of its model in float32. This model computes with "
            f"{code(interface.dtype)}{own}.\n"
        )
    return page + (
        "\nWhen it was exported, it was compared with the run:\n\n" + block(checks, "text") if checks else ""
    )


def _features(cfg: Config) -> str:
    spect, model = cfg.spect, cfg.model
    settings = [field.name for field in attrs.fields(SpectConfig) if field.name not in ("mean", "deviation")]
    rows = [(name, cell(getattr(spect, name))) for name in settings]
    if spect.mean:
        rows.append(("mean, deviation", f"of {len(spect.mean)} bins, in the model's metadata (`ds2f.config`)"))
    labels = "".join(model.labels) if all(len(label) == 1 for label in model.labels) else " ".join(model.labels)
    return (
        table(("spect.", ""), rows)
        + f"\nFrames of {spect.window_samples} samples every {spect.stride_samples}, centred, with reflection at both "
        f"ends; {spect.num_bins} magnitudes m{' in mel bands' * bool(spect.num_mels)} as log(1 + {spect.full_scale:g} "
        "m); minus the mean, divided by the deviation (normalize). `ds2f/features.py` is the definition.\n"
        f"\nOne frame of the output for {model.time_stride} frames of the input. Labels, the blank at index "
        f"{model.blank}: {code(labels, longest=4000)}\n"
    )


def _limits(cfg: Config, interface: Interface, languages: Sequence[str]) -> str:
    spect, longest = cfg.spect, _longest(cfg, interface)
    spoken = ", ".join(map(code, languages)) or "not stated"
    lines = (
        f"Recordings are converted to {spect.sample_rate:,} Hz; nothing above {spect.sample_rate // 2:,} Hz is heard.",
        longest,
        f"It knows the language of its training ({spoken}), and writes the labels above and nothing else.",
        _NORMALISATION[spect.normalize],
        "Error rates are of the sets above. Other voices, rooms, microphones and subjects give others.",
    )
    return "".join(f"- {line}\n" for line in lines)


def _longest(cfg: Config, interface: Interface) -> str:
    """How long a recording may be."""
    longest, rate = interface.longest, cfg.spect.sample_rate
    cut = "" if interface.from_samples else "; ds2f cuts recordings of over 25 s in pauses"
    if longest is None:
        return f"The model takes any length, but was trained on utterances{cut}."
    samples = longest if interface.from_samples else (longest - 1) * cfg.spect.stride_samples
    unit = "samples" if interface.from_samples else "frames"
    return f"{code(interface.file)} takes {longest:,} {unit} at most, {samples / rate:.2f} s."


_NORMALISATION = {
    "utterance": "Features are normalised over the whole utterance; a stream has only an estimate.",
    "bins": "Features are normalised for each bin over the whole utterance, which removes the colour of microphone and "
    "voice; a stream has only an estimate.",
    "global": "Features are normalised by statistics of the training set: recordings of another level or microphone "
    "fit less well.",
}


def _speed(files: Iterable[File], measured: Measured | None) -> str:
    size = f"{sum(each.size for each in files) / 1e6:,.1f} MB in all."
    if measured is None:
        return f"{size} The speed was not measured.\n"
    engine = f" by {code(measured.engine)}" if measured.engine else ""
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    batched = f"; with {measured.batched[0]} at a time {measured.batched[1]:.3f}" if measured.batched else ""
    return (
        f"{size} When the model was exported, on {code(measured.processor)} with {threads}{engine}: loaded in "
        f"{measured.load_seconds:.2f} s; {measured.seconds:.1f} s of sound, one recording at a time, in "
        f"{measured.real_time_factor * measured.seconds:.2f} s (real-time factor {measured.real_time_factor:.3f}"
        f"{batched}).\n"
    )


def _files(files: Sequence[File], command: Sequence[str]) -> str:
    rows = [(cell(each.name), f"{each.size:,}", cell(each.sha256)) for each in files]
    made = block([card_examples.shell_line(command)], "bash")
    return table(("file", "bytes", "SHA-256"), rows) + f"\nMade by\n\n{made}"
