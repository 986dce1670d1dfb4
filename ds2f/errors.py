"""Errors that the user can mend: the launchers print the message alone and exit with status 1."""


class InputError(ValueError):
    """A file, flag, manifest or recording that cannot be used.

    The message names the file, line or flag, says what is wrong with it and what to do. It is written for the person
    at the terminal, so no traceback is shown with it.
    """
