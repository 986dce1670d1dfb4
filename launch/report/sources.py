"""Where the transcripts come from that are looked at: a run's model, or a file of ``launch.evaluate --save_output``."""

import json
from pathlib import Path

from ds2f.errors import InputError
from launch import decoding, flags
from launch.report.error_analysis import Transcript


def of_run(run_dir: Path, *, split: str, which: str) -> list[Transcript]:
    """Transcribes a set with a run's model, by the decoder that the command line asks for.

    Args:
      run_dir: of the run.
      split: ``train``, ``val`` or ``test``.
      which: the checkpoint, as ``load_model`` takes it.

    Raises:
      InputError: when there is no such run or checkpoint, or its data cannot be used.
    """
    from ds2f.checkpoint import load_config
    from ds2f.runner.telemetry import terminal

    cfg = flags.config_from_flags(load_config(run_dir))
    decoder = decoding.decoder(cfg.model.labels)
    run = decoding.open_run(cfg, run_dir, split=split, which=which, console=terminal())
    found = decoding.evaluate(run, cfg, decoder)
    return [
        Transcript(str(run.split.utterances[row].audio), run.split.references[row], text)
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
