"""The guard around a command: errors of people, file systems and terminals end it with a message and a status."""

import errno
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from absl import flags

from ds2f import streams
from ds2f.errors import InputError, WorkerDied
from ds2f.text import shown

_REFUSALS = (
    *(errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENODEV, errno.EFBIG),
    *(errno.ENOTDIR, errno.ENAMETOOLONG),
)


def tell(message: str) -> None:
    """Prints a message for people to standard error, with the names in it escaped."""
    print(shown(message, lines=True), file=sys.stderr)


def _escape_what_is_shown() -> None:
    """Escapes what a terminal cannot show, or what would act on it: a message must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with suppress(OSError):  # it flushes the stream
                reconfigure(errors="backslashreplace")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_escape_record)


def _escape_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = shown(record.getMessage(), lines=True), ()
    return True


def prepare(*, output_matters: bool) -> None:
    """Opens standard streams that are closed, and makes them tolerant where the output is not the command's purpose."""
    streams.open_missing(output_matters=output_matters)
    if not output_matters:
        streams.tolerate()
        logging.raiseExceptions = False  # a log record that cannot be written is no reason for a traceback


@contextmanager
def ending_with_reader() -> Iterator[None]:
    """Ends the process with status 141 when the reader of its output has left, as during ``--help | head``."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        raise SystemExit(128 + signal.SIGPIPE) from None


def run(main: Callable[[list[str]], int | None], argv: list[str], *, resumes: bool = True) -> int | None:
    """Calls ``main`` and returns the exit status, which ``flags.run`` documents. Errors become messages.

    Args:
      main: the command.
      argv: the program and its arguments.
      resumes: whether a command with the flag for it goes on from a checkpoint, which messages then say.
    """
    _escape_what_is_shown()
    try:
        status = main(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        return 128 + signal.SIGPIPE
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # as rich's console ends a program
            return 128 + signal.SIGPIPE
        raise
    except (InputError, WorkerDied) as error:
        tell(f"{Path(argv[0]).stem}: {error}")
        return 1
    except OSError as error:
        problem = storage_problem(error, resumes=resumes)
        if problem is None or (error.errno in _REFUSALS and error.filename is None):  # a defect, and no path to mend
            raise
        tell(f"{Path(argv[0]).stem}: {problem}")
        return 1
    except KeyboardInterrupt as error:
        tell(f"{Path(argv[0]).stem}: {str(error) or 'interrupted'}")
        return 130
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, streams.TolerantStream):
                stream.settle()


def _reader_has_left() -> bool:
    """Whether the reader of standard output, such as ``head``, has closed it; if so, discards the remaining output."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # otherwise Python reports the closed pipe at exit
    return True


def storage_problem(error: OSError, *, resumes: bool = True) -> str | None:
    """A message about a file system that refuses; None when the error has another cause."""
    go_on = _go_on() if resumes else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _out_of_space(error, go_on)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{_too_many_files(error)}. {go_on}".rstrip()
    if error.errno in _REFUSALS:
        return f"{error.filename or 'a file'}: {error.strerror}. {go_on}".rstrip()
    return None


def _out_of_space(error: OSError, go_on: str) -> str:
    run_dir = flags.FLAGS["run_dir"].value if go_on and "run_dir" in flags.FLAGS else ""  # only training writes there
    return f"no space left for {error.filename or run_dir or Path.cwd()}; free some and start again. {go_on}".rstrip()


def _too_many_files(error: OSError) -> str:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"too many open files{f' ({error.filename})' if error.filename else ''}: ulimit -n is {limit}; raise it"


def _go_on() -> str:
    if "checkpointing.load_auto_checkpoint" not in flags.FLAGS:
        return ""
    return (
        "Nothing up to the last checkpoint is lost: --checkpointing.load_auto_checkpoint with the same --run_dir "
        "goes on from there."
    )
