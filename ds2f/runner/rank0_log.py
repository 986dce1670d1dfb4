"""One voice for all ranks: what all of them know is said once, and what one of them knows, too."""

from collections.abc import Iterable

from ds2f.runner.distributed.collectives import Group
from ds2f.runner.telemetry import Telemetry


class RankZeroLog:
    """The telemetry of every rank, heard through rank 0's."""

    def __init__(self, telemetry: Telemetry, group: Group) -> None:
        """Takes this rank's telemetry."""
        self._telemetry, self._group = telemetry, group

    def say(self, message: str) -> None:
        """Says what all ranks say at this moment."""
        if self._group.rank == 0:
            self._telemetry.say(message)

    def relay(self) -> None:
        """Says what the other ranks had to say since the last time. All ranks call it together."""
        for line in self._union(self._telemetry.take()):
            self.say(line)

    def say_left_out(self, reasons: Iterable[str]) -> None:
        """Lists the recordings that training had to do without on any rank. All ranks call it together."""
        lost = self._union(reasons)
        if lost:
            recordings = "recording" if len(lost) == 1 else "recordings"
            self.say("\n  ".join([f"{len(lost)} {recordings} that could not be read, left out:", *lost]))

    def _union(self, lines: Iterable[str]) -> list[str]:
        """Every rank's lines, each once."""
        return list(dict.fromkeys(line for share in self._group.gather(list(lines)) for line in share))
