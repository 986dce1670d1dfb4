"""The flag ``--cutting``: lengths of the pieces in which long recordings are heard."""

import sys
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from ds2f.errors import InputError

if TYPE_CHECKING:
    from ds2f.inference.pieces import Cutting

_LONGEST = 600.0  # seconds of a piece, which is held in memory as a whole


def define() -> None:
    """Registers ``--cutting``. A command calls it at module level."""
    absl_flags.DEFINE_list(
        "cutting",
        [],
        "Lengths of the pieces of recordings of over 25 s, seconds, as in shortest=6,longest=25: Cutting in pieces.py. "
        "The default suits models of single short utterances; for others launch.longform tells what does.",
        module_name=sys.argv[0],  # --help lists the flags of this name
    )


def given() -> bool:
    """Whether the flag is set."""
    return bool("cutting" in absl_flags.FLAGS and absl_flags.FLAGS.cutting)


def lengths(*, most: float = float("inf")) -> "Cutting":
    """The lengths of ``--cutting``; the defaults where a command has no such flag.

    Args:
      most: seconds of the longest piece that the model takes; the defaults become shorter with it.

    Raises:
      InputError: a name that is none, a number that is none, or lengths that contradict each other or the model.
    """
    from ds2f.inference.pieces import Cutting

    found = Cutting().at_most(most)
    for each in absl_flags.FLAGS.cutting if given() else ():
        name, _, value = each.partition("=")
        try:
            found = found._replace(**{name.strip(): float(value)})
        except ValueError as error:
            raise InputError(f"--cutting={each}: NAME=SECONDS, with {', '.join(Cutting._fields)}") from error
    if not (all(0 <= each <= _LONGEST for each in found) and found.shortest + found.overlap < found.longest):
        raise InputError(
            f"--cutting={','.join(absl_flags.FLAGS.cutting)}: lengths of 0 to {_LONGEST:g} s, shortest "
            f"({found.shortest:g}) and overlap ({found.overlap:g}) together below longest ({found.longest:g})"
        )
    if found.longest > most:
        raise InputError(
            f"--cutting=longest={found.longest:g}: the exported model takes {most:.2f} s at once; give at most as many "
            "seconds, leave it out, or export the run with longer --shapes"
        )
    return found
