"""Estimates an n-gram language model from transcripts: python -m launch.build_lm --data_path=data --output=lm.arpa."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import flags, next_steps, progress_bars

FLAGS = absl_flags.FLAGS
_DATA = ("dataset", "train_manifest", "val_manifest", "train_on_val", "labels_path", "unknown_characters")
_LIMITS = ("max_text_bytes", "max_manifest_bytes")
flags.define(only=("data_path", *(f"data.{name}" for name in (*_DATA, *_LIMITS))))
absl_flags.DEFINE_string("output", "", "ARPA file to write, such as lm.arpa.")
absl_flags.DEFINE_enum(
    "unit",
    "words",
    ["words", "characters"],
    "Unit of the n-grams. With words, beam search finds only words of the transcripts; with characters, any word.",
)
absl_flags.DEFINE_integer("order", 0, "Length of the longest n-grams; 0: 4 words, or 6 characters.", lower_bound=0)
absl_flags.DEFINE_enum(
    "smoothing",
    "auto",
    ["auto", "kneser_ney", "witten_bell"],
    "Probabilities of unseen n-grams: modified Kneser-Ney, which is undefined for some corpora, or Witten-Bell. "
    "auto: Kneser-Ney for words where it is defined, otherwise Witten-Bell.",
)

_METHODS = {
    "kneser_ney": "msb",
    "witten_bell": "wb",
}  # names in irstlm; msb, modified shift-beta, is modified Kneser-Ney
_DEFAULT_ORDERS = {"words": 4, "characters": 6}
_LOWEST_ORDER = 2  # KenLM reads no unigram models
_HIGHEST_ORDER = 6  # for which the KenLM of flashlight-text was compiled


def main(_: list[str]) -> None:
    """Estimates a language model from the transcripts that a run with these flags trains on, and prints its size."""
    output = Path(FLAGS.output)
    if not FLAGS.output or output.is_dir() or not output.parent.is_dir():
        raise InputError(f"--output={FLAGS.output}: give a file in a folder that exists, such as lm.arpa")
    order = FLAGS.order or _DEFAULT_ORDERS[FLAGS.unit]
    if not _LOWEST_ORDER <= order <= _HIGHEST_ORDER:
        raise InputError(
            f"--order={order}: KenLM, which reads the model, takes n-grams from {_LOWEST_ORDER} to {_HIGHEST_ORDER}; "
            "give a number between"
        )

    from ds2f.data import manifests
    from ds2f.data.manifest_paths import manifest_path
    from ds2f.files import write_atomically

    cfg = flags.config_from_flags()
    splits = ("train", "val") if cfg.data.train_on_val else ("train",)
    utterances = [
        utterance for split in splits for utterance in manifests.read(manifest_path(cfg, split), cfg=cfg.data)
    ]
    spelled = spell((each.transcript for each in utterances), cfg.model.labels, unknown=cfg.data.unknown_characters)
    sentences = list(tokens(spelled, cfg.model.labels, unit=FLAGS.unit))
    methods = [FLAGS.smoothing]
    if FLAGS.smoothing == "auto":
        methods = ["kneser_ney", "witten_bell"] if FLAGS.unit == "words" else ["witten_bell"]
    with progress_bars.waiting("estimating"):
        method, model = estimate(sentences, order=order, methods=methods)
    write_atomically(output, with_space(model) if FLAGS.unit == "characters" else model, fsync=True)
    kinds = len({token for sentence in sentences for token in sentence})
    print(
        f"{shown(str(output))}: {order}-gram model of {kinds:,} {FLAGS.unit}, {method.replace('_', '-')}, from "
        f"{len(sentences):,} transcripts with {sum(map(len, sentences)):,} {FLAGS.unit}"
    )
    lm = f"--lm.path={output}"
    print(shown(next_steps.text(("tune_lm", "--run_dir=RUN", lm), ("evaluate", "--run_dir=RUN", lm)), lines=True))


def spell(transcripts: Iterable[str], labels: Sequence[str], *, unknown: str) -> list[str]:
    """The transcripts in the spelling of the labels; ``unknown`` is ``data.unknown_characters``."""
    from ds2f import text

    encoded = (text.encode(transcript, labels, unknown=unknown) for transcript in transcripts)
    return [text.decode(ids, labels) for ids in encoded if ids is not None]


def tokens(transcripts: Iterable[str], labels: Sequence[str], *, unit: str) -> Iterable[list[str]]:
    """Cuts transcripts into words, or into labels with ``<space>`` between words."""
    from ds2f import text
    from ds2f.data.language_model import SPACE

    for transcript in transcripts:
        yield (
            transcript.split()
            if unit == "words"
            else [SPACE if character == " " else character for character in text.units(transcript, labels)]
        )


def with_space(arpa: str) -> str:
    """Adds the unigram ``<space>`` to a model of characters, if every transcript was a single word.

    ``<space>`` marks a model of characters. It gets the probability of an unknown character.
    """
    from ds2f.data.language_model import SPACE

    lines = arpa.splitlines(keepends=True)
    first, end = lines.index("\\1-grams:\n") + 1, lines.index("\\2-grams:\n")
    unigrams = {fields[1]: fields[0] for fields in map(str.split, lines[first:end]) if fields}
    if SPACE in unigrams:
        return arpa
    lines.insert(first, f"{unigrams['<unk>']}\t{SPACE}\n")
    return re.sub(r"^ngram +1= *\d+", f"ngram 1={len(unigrams) + 1}", "".join(lines), count=1, flags=re.MULTILINE)


def estimate(sentences: Sequence[Sequence[str]], *, order: int, methods: Sequence[str]) -> tuple[str, str]:
    """Estimates a model with irstlm's ``tlm``, without pruning, and with interpolated lower orders.

    irstlm counts one ``<s>`` more than there are sentences. A second ``<s>`` after ``<s>`` therefore gets a probability
    of about 1 / (number of sentences). Beam search never uses it.

    Args:
      sentences: tokens without white space.
      order: length of the longest n-grams.
      methods: smoothing methods to try, in this order. Kneser-Ney is undefined if no n-gram of some length occurs
        exactly once, which is usual for single characters.

    Returns:
      The first method that is defined for the sentences, and the text of the ARPA file.

    Raises:
      InputError: irstlm is missing, there are no tokens, or no method is defined for the sentences.
    """
    program = shutil.which("irstlm")
    if not program:
        raise InputError("irstlm is missing: apt-get install irstlm (Debian and Ubuntu)")
    if not any(sentences):
        raise InputError("the transcripts are all empty; a language model needs text")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (" ".join(["<s>", *sentence, "</s>"]) + "\n" for sentence in sentences)
        (folder / "text").write_text("".join(lines), encoding="utf-8")
        for method in methods:
            command = [program, "tlm", "-tr=text", f"-n={order}", f"-lm={_METHODS[method]}", "-bo=no", "-ps=no"]
            done = subprocess.run(
                [*command, "-oarpa=arpa"], cwd=folder, capture_output=True, text=True, errors="replace", check=False
            )
            if done.returncode == 0 and (folder / "arpa").exists():
                return method, (folder / "arpa").read_text(encoding="utf-8")
    last_line = "".join((done.stdout + done.stderr).strip().splitlines()[-1:])
    raise InputError(
        f"irstlm estimates no {order}-gram model with --smoothing={methods[-1]} "
        f"(status {done.returncode}: {last_line!r}); --smoothing=witten_bell is defined for any counts"
    )


if __name__ == "__main__":
    flags.run(main, output_matters=False)
