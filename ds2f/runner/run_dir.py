"""The run's folder: checks whether a training may use it, completes the settings from it, and writes them to it."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from ds2f import checkpoint, config
from ds2f.config import Config
from ds2f.errors import CheckpointError, InputError
from ds2f.files import is_local, json_text, write_atomically
from ds2f.runner import log_files
from ds2f.runner.distributed.collectives import Group
from ds2f.runner.splits import global_batch

_CONFIG, _JOB = "config.json", "job.txt"


def settle(run_dir: Path, cfg: Config, *, ranks: int = 1, job: str = "", restarted: bool = False) -> Config:
    """Completes the settings from the run's folder. Writes nothing.

    Args:
      run_dir: the folder, which need not exist. A run in the folder goes on if ``checkpointing.load_auto_checkpoint``
        is set, or if the same job wrote the run.
      cfg: the settings.
      ranks: the number of ranks.
      job: a name that all starts of one job share; empty without a job.
      restarted: whether the same job has started before.

    Returns:
      The settings with the global batch size and the whole path of ``checkpointing.folder``. A continued run keeps its
      global batch and its recurrent kernel, whatever the number of ranks, and the statistics of its features. If the
      same job wrote the folder, ``checkpointing.load_auto_checkpoint`` is set.

    Raises:
      InputError: when the folder holds another run, or a run of another model or global batch; or when the bucket of
        the checkpoints cannot be reached.
    """
    checkpoint.open_folder(cfg.checkpointing.folder or run_dir)
    same_job = restarted or bool(job and _job(run_dir)[0] == job)
    if same_job:
        cfg = attrs.evolve(cfg, checkpointing=attrs.evolve(cfg.checkpointing, load_auto_checkpoint=True))
    holds_run = begun(run_dir)
    if holds_run and not cfg.checkpointing.load_auto_checkpoint:
        raise InputError(
            f"{run_dir} already holds a run. Go on with it: --checkpointing.load_auto_checkpoint. "
            "Start another: --run_dir=OTHER (or remove the folder)."
        )
    size, cfg = global_batch(cfg, ranks), _with_whole_folder(cfg)
    before = _settings_before(run_dir, cfg)[0] if cfg.checkpointing.load_auto_checkpoint else None
    if before is not None:
        measured = before.spect.mean, before.spect.deviation
        cfg = attrs.evolve(cfg, spect=attrs.evolve(cfg.spect, mean=measured[0], deviation=measured[1]))
        before = _with_whole_folder(before)
        if cfg.model.kernel == "auto":
            cfg = attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel=before.model.kernel))
        if holds_run:
            _require_same_run(run_dir, before, cfg)
        if holds_run or same_job:
            size = before.data.global_batch_size or size
    return attrs.evolve(cfg, data=attrs.evolve(cfg.data, global_batch_size=size))


def settle_on_rank0(run_dir: Path, cfg: Config, group: Group, *, job: str = "", restarted: bool = False) -> Config:
    """Completes the settings of all ranks by ``settle`` on rank 0; only rank 0 needs access to the folder.

    Raises:
      InputError: on rank 0, as ``settle``.
    """
    if group.rank == 0:
        cfg = settle(run_dir, cfg, ranks=group.size, job=job, restarted=restarted)
    decided = config.from_dict(group.gather(config.to_dict(cfg))[0])
    return attrs.evolve(
        cfg,
        model=attrs.evolve(cfg.model, kernel=decided.model.kernel),
        spect=decided.spect,
        data=attrs.evolve(cfg.data, global_batch_size=decided.data.global_batch_size),
        checkpointing=decided.checkpointing,
    )


def claim(
    run_dir: Path,
    cfg: Config,
    flags_text: Callable[[Config], str],
    *,
    job: str = "",
) -> list[str]:
    """Makes the run's folder and writes the checked settings to it. Only rank 0 calls this function.

    Args:
      run_dir: the folder.
      cfg: the settings, completed by ``settle`` and with a named recurrent kernel.
      flags_text: turns settings into a flagfile, which is written to ``flags.txt``.
      job: as for ``settle``.

    Returns:
      Messages for the log: the flags of a continued run that have new values, and the files that were damaged. A
      damaged file is kept under another name.

    Raises:
      InputError: when the folder cannot be written.
    """
    messages: list[str] = []
    before, fault = _settings_before(run_dir, cfg)
    if fault and (run_dir / _CONFIG).exists():
        log_files.set_aside(run_dir / _CONFIG, fault, messages.append)
    if before is not None and fault:
        messages.append(f"{run_dir / _CONFIG} is written again, with the settings in the newest checkpoint")
    if before is not None and begun(run_dir):
        messages += _changes(run_dir, flags_text(before), flags_text(cfg))
    _, fault = _job(run_dir)
    if fault:
        log_files.set_aside(run_dir / _JOB, fault, messages.append)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for name, text in texts(cfg, flags_text, job=job).items():
            write_atomically(run_dir / name, text(), fsync=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"--run_dir={run_dir} cannot be written: {error}. Give another folder.") from error
    return messages


def texts(cfg: Config, flags_text: Callable[[Config], str], *, job: str = "") -> dict[str, Callable[[], str]]:
    """The files that ``claim`` writes, whose arguments it takes: by name, a function that returns the content."""
    cfg = attrs.evolve(cfg, data=attrs.evolve(cfg.data, allow_changes=False))  # holds for one start
    files = {
        _CONFIG: lambda: json_text(config.to_dict(cfg), indent=2) + "\n",
        "flags.txt": lambda: flags_text(cfg),
    }
    return files | ({_JOB: lambda: job} if job else {})


@contextmanager
def left_as_it_was(run_dir: Path) -> Iterator[None]:
    """Removes from a run's folder what the block added, if it turns out that no checkpoint can be written."""
    before = set(run_dir.iterdir())
    try:
        yield
    except CheckpointError:
        for added in set(run_dir.iterdir()) - before:
            with suppress(OSError):
                shutil.rmtree(added) if added.is_dir() else added.unlink()
        raise


def begun(run_dir: Path) -> bool:
    """Whether the folder holds a run that took a step."""
    metrics = run_dir / "metrics.jsonl"
    has_metrics = metrics.exists() and metrics.stat().st_size > 0
    return has_metrics or any((run_dir / "checkpoints").glob("*/digests.json"))


def _with_whole_folder(cfg: Config) -> Config:
    """The settings with the whole path of the checkpoints' folder, since the run may be read from anywhere."""
    folder = cfg.checkpointing.folder
    if folder and is_local(folder):
        folder = str(Path(folder).absolute())
    return attrs.evolve(cfg, checkpointing=attrs.evolve(cfg.checkpointing, folder=folder))


def _settings_before(run_dir: Path, cfg: Config) -> tuple[Config | None, str]:
    """The settings of the run in the folder, and the fault of ``config.json`` if there is one.

    Settings that are lost or damaged are taken from the newest checkpoint. There are none of a run that never began.

    Raises:
      InputError: when they are damaged, and no checkpoint holds them.
    """
    fault = ""
    try:
        return config.load(run_dir / _CONFIG), ""
    except InputError as error:
        fault = str(error)
    except (FileNotFoundError, NotADirectoryError):
        pass  # no run has begun here, or the file is lost
    if not begun(run_dir):
        return None, fault and "damaged"
    recovered = checkpoint.recover_config(run_dir, folder=cfg.checkpointing.folder)
    if recovered is None and fault:
        raise InputError(fault)
    return recovered, "" if recovered is None else ("damaged" if fault else "missing")


def _job(run_dir: Path) -> tuple[str, str]:
    """The name of the job that wrote the folder, empty if unknown, and the fault of ``job.txt`` if there is one."""
    try:
        return (run_dir / _JOB).read_text(encoding="utf-8"), ""
    except (FileNotFoundError, NotADirectoryError):
        return "", ""
    except UnicodeDecodeError:
        return "", "is not text"
    except OSError as error:
        return "", f"cannot be read: {error.strerror or error}"


def _require_same_run(run_dir: Path, before: Config, cfg: Config) -> None:
    changed = [
        "model.labels differ"
        if name == "labels"
        else f"model.{name} was {getattr(before.model, name)} and is {value} here"
        for name, value in attrs.asdict(cfg.model).items()
        if value != getattr(before.model, name) and name != "remat"  # saves memory and changes no number
    ]
    if changed:
        raise InputError(
            f"{run_dir} holds a run of another model ({', '.join(changed)}). "
            f"Use --flagfile={run_dir / 'flags.txt'}, or another --run_dir."
        )
    fixed = [
        *(("data", name) for name in ("train_on_val", "max_frames")),  # decide the steps of an epoch
        *(("spect", name) for name in attrs.asdict(cfg.spect)),  # the model was trained on these spectrograms
        ("training", "seed"),
        ("checkpointing", "folder"),  # holds the checkpoint from which the run goes on
    ]
    for section, name in fixed:
        was, asked = (getattr(getattr(each, section), name) for each in (before, cfg))
        if asked != was:
            raise InputError(
                f"{run_dir} holds a run with {section}.{name} = {was!r}, which cannot become {asked!r} in the middle. "
                f"Use --flagfile={run_dir / 'flags.txt'}, or another --run_dir."
            )
    size = before.data.global_batch_size
    if cfg.data.global_batch_size not in (0, size):
        raise InputError(
            f"{run_dir} holds a run whose global batch is {size}; --data.global_batch_size="
            f"{cfg.data.global_batch_size} would change it in the middle. Leave the flag out, or use another --run_dir."
        )


def _changes(run_dir: Path, before: str, now: str) -> list[str]:
    """A message with every flag that has a new value, if there are any; ``load_auto_checkpoint`` does not count."""
    pairs = zip(before.splitlines(), now.splitlines(), strict=True)
    changed = [
        f"{new} (was {old.partition('=')[2] or 'empty'})"
        for old, new in pairs
        if new != old and "load_auto_checkpoint" not in new
    ]
    return [f"{run_dir} goes on with other flags than before: {', '.join(changed)}"] if changed else []
