"""The page of results: python -m launch.report > configs/results/README.md.

Tables and conditions come from the files in ``configs/results``, the text around them from this module.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from launch.report import ablation, compare, device_check, results

_TEXT = """\
# Results

[ds2f](../../README.md) / [configs](../README.md) / results · speed: [bench](../../launch/bench/README.md)

`python -m launch.report > configs/results/README.md` writes this page from the files in this folder.
[launch/report](../../launch/report/README.md) says how to add a result.

## AN4's test set

130 utterances, 773 words, 1,922 characters without spaces. One word is 0.13 %. At 10 %, the 95 % interval of one run is
about ±2.1 points. Rows of several seeds give the mean and, in brackets, the range. Settings of ds2f were chosen on the
validation set, optimizer and batch of 5 x 1024 by training loss, nothing on the test set. Each row names its decoding.

<!-- results -->
{results}
<!-- /results -->

Conditions of each row:

{sources}

## Ablation

One run per row, one change per run, on the validation set. The base is `configs/an4_cpu_whole.flags` with
`--nodata.train_on_val --notraining.evaluate_test --data.batch_size=8 --optim.average_decay=0.998 --training.epochs=24
--training.validate_every=2 --training.seed=1`. Figures are those of the best epoch.

<!-- ablation -->
{ablation}
<!-- /ablation -->

- **Joined utterances** (`data/an4_spliced`): 57,900 utterances seen, of every 5,790 of them 4,944 joined from training
  utterances alone. The same flags without joined utterances came to 10.67 %, of 33,840 utterances seen.
- **64 mel bands** make an epoch 1.7 times as fast: 9.7 against 5.8 utterances/s, each on one core beside another
  training.
- **Two views of an utterance** (`--model.consistency`) double the cost of an epoch. Their run has half the epochs, and
  was validated after each.

`python -m launch.report --ablation=configs/results/ablation` prints the table.

## One rank and eight ranks

Eight ranks should learn as much per epoch as one rank. Their larger batch needs another recipe: muon, a short warm-up,
a higher rate and less momentum. A small model was trained for 24 epochs with `configs/an4_small_8p.flags` (eight ranks
of 4 utterances) and with `configs/an4_small_1p.flags` (one rank of 10), five seeds each. On the validation set:

<!-- ranks -->
{ranks}
<!-- /ranks -->

- One process took the steps of 32 utterances, with `--nproc_per_node=1 --data.batch_size=32`. Eight ranks have the same
  gradients ([distributed](../../ds2f/runner/distributed/README.md)).
- The settings of eight ranks were chosen by the training loss of seed 3. More settings were tried for steps of 32 than
  for steps of 10.
- With AdamW, or with a warm-up of 0.15, steps of 32 were behind after 8 epochs.

`python -m launch.report --compare='configs/results/ranks/eight-*' --against='configs/results/ranks/one-*'` prints the
table.{devices}
"""
_DEVICES = """

## Devices

Each row is a check of a device by `launch/check_device.sh`. The two columns on the right: how many times as many
utterances per second ours trains ([method](../../launch/bench/README.md#method)).

<!-- devices -->
{rows}
<!-- /devices -->"""


def page(folder: Path, *, name: Path) -> str:
    """The page in Markdown.

    Args:
      folder: of the results.
      name: of the folder on the page, such as ``configs/results``, wherever the package is installed.

    Raises:
      InputError: a file is missing, damaged, or of another test set.
    """
    return _TEXT.rstrip().format(
        results=_lines(results.rows(folder)),
        sources=_lines(_sources(folder)),
        ablation=_lines(ablation.rows(folder / "ablation")),
        ranks=_lines(compare.rows(f"{folder}/ranks/eight-*", f"{folder}/ranks/one-*", split="val")).replace(
            f"{folder}/", f"{name}/"
        ),
        devices=_devices(folder),
    )


def _devices(folder: Path) -> str:
    """The section of devices; empty where none has been checked."""
    found = device_check.stored(folder)
    return _DEVICES.format(rows=_lines(device_check.rows(found))) if found else ""


def _sources(folder: Path) -> Iterator[str]:
    yield from (f"- **{recipe.about['name']}**: {recipe.about['source']}." for recipe in results.recipes(folder))


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
