"""The line of an epoch: in the log with a name before each number, on a terminal as a row of a table."""

import re

from rich.text import Text

_REPEATED = 20  # rows after which the headings come again

_LINE = re.compile(
    r"epoch (?P<epoch>\S+)(?: and (?P<steps>\d+) steps)?  loss (?P<loss>\S+)"
    r"(?:  val loss (?P<val_loss>\S+)  (?P<first>[WC]ER) (?P<first_rate>\S+) %"
    r"  (?P<second>[WC]ER) (?P<second_rate>\S+) %"
    r"(?: \((?P<remark>[^)]*)\))?)?(?P<best> \*)?  (?P<speed>\S+) utt/s  lr (?P<rate>\S+)(?:  (?P<left>.*) left)?"
)


def line(
    epoch: str, steps: int, *, loss: float, validation: str = "", best: bool = False, speed: float, rate: float
) -> str:
    """The log line of an epoch, or of the part of it that was run.

    Args:
      epoch: number and total of the epochs, as 3/70.
      steps: steps of the part; 0 for a whole epoch.
      loss: mean training loss, natural log.
      validation: loss and error rates of the validation; empty without one.
      best: whether the model is the best so far, marked by a star.
      speed: utterances per second of all ranks.
      rate: learning rate.

    >>> line("1/70", 0, loss=2, validation="val loss 1.500  WER 9.00 %  CER 3.00 %", best=True, speed=12, rate=1e-3)
    'epoch 1/70  loss 2.000  val loss 1.500  WER 9.00 %  CER 3.00 % *  12.0 utt/s  lr 1.00e-03'
    """
    part = f" and {steps} steps" if steps else ""
    middle = f"  {validation}" if validation else ""
    return f"epoch {epoch}{part}  loss {loss:.3f}{middle}{' *' if best else ''}  {speed:.1f} utt/s  lr {rate:.2e}"


class EpochTable:
    """Turns log lines of epochs into rows for a terminal of 80 columns, with headings above; the best are bold."""

    def __init__(self) -> None:
        """Begins without rows."""
        self._rows = 0

    def rows(self, message: str) -> list[Text] | None:
        """What the terminal shows for a line of the log; None if it is no epoch's, and shown as it is."""
        found = _LINE.fullmatch(message)
        if found is None:
            return None
        each = {name: value or "" for name, value in found.groupdict().items()}
        rates = (each["first"], each["second"]) if each["first"] else ("", "")
        cells = [each["epoch"] + (f"+{each['steps']}" if each["steps"] else ""), each["loss"], each["val_loss"]]
        cells += [each["first_rate"], each["second_rate"], "*" if each["best"] else ""]
        cells += [each["speed"], each["rate"], each["left"]]
        shown = [Text(_row(cells), style="bold" if each["best"] else "")]
        if each["remark"]:
            shown.append(Text(f"  {each['remark']}"))
        if self._rows % _REPEATED == 0:
            headings = ["epoch", "loss", "val loss", *(f"{name} %" if name else "" for name in rates)]
            shown.insert(0, Text(_row([*headings, "", "utt/s", "lr", "left"]), style="dim"))
        self._rows += 1
        return shown


def _row(cells: list[str]) -> str:
    widths = (9, 9, 9, 8, 8, 1, 8, 9, 10)
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
