"""Errors for users: the launchers print their message alone, without a traceback."""


class InputError(ValueError):
    """A file, flag, manifest or recording cannot be used.

    The message names the file, line or flag, the mistake and the remedy. Starting again without a change fails again.
    """


class OutOfMemory(InputError):  # noqa: N818  # it says what happened
    """An input does not fit into the memory that is free. Another may, and this one later or on another device."""


class CheckpointError(InputError):
    """No checkpoint can be written to the folder of a run's checkpoints."""


class WorkerDied(Exception):  # noqa: N818  # it says what happened
    """A process that a run needs has died or does not answer; its inputs are valid, and starting again may succeed.

    The message names the process, its exit status or state, the likely cause and the remedy.
    """
