"""Charts of one number for each of some names: bars, or points with intervals. The templates draw them as SVG."""

from collections.abc import Sequence
from typing import NamedTuple

from launch.report.run_page.line_charts import WIDTH, Tick, scale, ticks

LEFT, RIGHT = 12, WIDTH - 16
_ROW, _BELOW = 34, 46


class Value(NamedTuple):
    """What is drawn of a name."""

    name: str
    value: float
    label: str  # the value as text, with its unit
    interval: tuple[float, float] | None = None
    own: bool = False  # stands out among the others


class Row(NamedTuple):
    """A row of the drawing: the text above, the place of the value, and those of its interval."""

    text: str
    y: int
    place: float
    low: float | None
    high: float | None
    own: bool


class BarChart(NamedTuple):
    """A chart whose rows are a text and a bar, or a point, below it."""

    title: str
    description: str  # for people who do not see it
    x_label: str
    x_ticks: list[Tick]
    rows: list[Row]
    as_points: bool
    width: int = WIDTH
    left: int = LEFT
    right: int = RIGHT

    @property
    def bottom(self) -> int:
        """Where the rows end."""
        return _ROW * len(self.rows) + 4

    @property
    def height(self) -> int:
        """Height of the drawing."""
        return self.bottom + _BELOW - 4


def bar_chart(title: str, x_label: str, values: Sequence[Value], *, as_points: bool = False) -> BarChart:
    """Lays out a chart of at least one value, in the order given.

    Args:
      title: what is drawn.
      x_label: of the axis, with the unit.
      values: none of them is below zero.
      as_points: draw points with their intervals in place of bars.
    """
    highest = max(max(each.value, each.interval[1] if each.interval else 0.0) for each in values)
    x = scale(0.0, highest, LEFT, RIGHT)
    rows = [
        Row(
            f"{each.name}: {each.label}",
            _ROW * number,
            x(each.value),
            x(each.interval[0]) if each.interval else None,
            x(each.interval[1]) if each.interval else None,
            each.own,
        )
        for number, each in enumerate(values)
    ]
    return BarChart(title, f"{'; '.join(row.text for row in rows)}.", x_label, ticks(x, most=7), rows, as_points)
