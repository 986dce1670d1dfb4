"""Where the transcripts come from that are looked at: a run's model, or a file of ``launch.evaluate --save_output``."""

import json
import sys
from functools import partial
from pathlib import Path

from ds2f.errors import InputError
from launch import flags
from launch.report.errors import Transcript


def of_run(run_dir: Path, *, split: str, which: str) -> list[Transcript]:
    """Transcribes a set greedily with a run's model.

    Args:
      run_dir: of the run.
      split: ``train``, ``val`` or ``test``.
      which: the checkpoint, as ``load_model`` takes it.

    Raises:
      InputError: when there is no such run or checkpoint, or its data cannot be used.
    """
    from ds2f import ctc, tree
    from ds2f.checkpoint import load_config, load_model
    from ds2f.runner.backend import open_backend
    from ds2f.runner.evaluator import evaluate
    from ds2f.runner.splits import Split

    cfg = flags.config_from_flags(load_config(run_dir))
    backend = open_backend(cfg.device)
    opened = Split.open(split, cfg)  # first: its workers must not inherit orbax's threads
    say = partial(print, file=sys.stderr)
    for remark in opened.dataset.remarks:
        say(remark)
    params, stats = load_model(run_dir, which=which, warn=say)[1:]
    found = evaluate(
        tree.to(params, backend.device),
        tree.to(stats, backend.device),
        opened.loader.epoch(),
        opened.references,
        cfg=cfg.model,
        policy=backend.policy(cfg.apex),
        backend=backend,
        criterion=partial(ctc.ctc_loss, impl=cfg.model.ctc),
    )
    return [
        Transcript(str(opened.utterances[row].audio), opened.references[row], text)
        for row, text in sorted(found.transcripts.items())
    ]


def of_file(path: Path) -> list[Transcript]:
    """Reads what ``launch.evaluate --save_output`` wrote.

    Raises:
      InputError: when it cannot be read, or is something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; write it with launch.evaluate --save_output={path}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); write it again with launch.evaluate --save_output") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: not a list of utterances, as launch.evaluate --save_output writes it")
    for number, row in enumerate(rows, start=1):
        lacking = [
            name for name in Transcript._fields if not isinstance(row, dict) or not isinstance(row.get(name), str)
        ]
        if lacking:
            raise InputError(
                f"{path}: utterance {number} has no text for {', '.join(lacking)}; is it of --save_output?"
            )
    return [Transcript(*(row[name] for name in Transcript._fields)) for row in rows]
