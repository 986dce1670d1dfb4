"""The guard around a command: errors of people, file systems and terminals end it with a message and a status."""

import errno
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from absl import flags

from ds2f import streams
from ds2f.errors import InputError, WorkerDied
from ds2f.text import shown


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
    streams.open_missing()
    if not output_matters:
        streams.tolerate()
        logging.raiseExceptions = False  # a log record that cannot be written is no reason for a traceback


def run(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """Calls ``main`` and returns the exit status, which ``flags.run`` documents. Errors become messages."""
    _escape_what_is_shown()
    try:
        status = main(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        return 128 + signal.SIGPIPE
    except (InputError, WorkerDied) as error:
        tell(f"{Path(argv[0]).stem}: {error}")
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        tell(f"{Path(argv[0]).stem}: {_out_of_space(error)}")
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


def storage_problem(error: OSError) -> str | None:
    """A message about a file system that refuses; None when the error has another cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _out_of_space(error)
    if error.errno in (errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENODEV, errno.EFBIG):
        return f"{error.filename or 'a file'}: {error.strerror}. {_go_on()}".rstrip()
    return None


def _out_of_space(error: OSError) -> str:
    run_dir = flags.FLAGS["run_dir"].value if "run_dir" in flags.FLAGS else ""
    message = f"no space left for {error.filename or run_dir or Path.cwd()}; free some and start again. {_go_on()}"
    return message.rstrip()


def _go_on() -> str:
    if "checkpointing.load_auto_checkpoint" not in flags.FLAGS:
        return ""
    return (
        "Nothing up to the last checkpoint is lost: --checkpointing.load_auto_checkpoint with the same --run_dir "
        "goes on from there."
    )
