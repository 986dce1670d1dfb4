"""Errors for users: the launchers print their message alone, without a traceback."""


class InputError(ValueError):
    """A file, flag, manifest or recording cannot be used.

    The message names the file, line or flag, the mistake and the remedy. Starting again without a change fails again.
    """


class WorkerDied(Exception):  # noqa: N818  # it says what happened
    """A process that a run needs has died, although the run's inputs are valid: starting again may succeed.

    The message names the process, its exit status, the likely cause and the remedy.
    """
