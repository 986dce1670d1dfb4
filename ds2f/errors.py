"""Errors whose message is enough: the launchers print it alone, without a traceback."""


class InputError(ValueError):
    """A file, flag, manifest or recording that cannot be used.

    The message names the file, line or flag, says what is wrong with it and what to do. It is written for the person
    at the terminal, so no traceback is shown with it.
    """


class WorkerDied(Exception):  # noqa: N818  # it says what happened
    """A process that a run needs has died, by no fault of what the run was given: starting again may well succeed.

    The message names the process, its exit status, the likely cause and the remedy, and is shown without a traceback.
    """
