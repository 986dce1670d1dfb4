"""Charts of lines over the epochs as geometry: ticks, lines, marks. The templates draw them as SVG.

A chart is 360 units wide, so that its letters are legible where the page is 360 pixels wide.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 26, 40
MOST_POINTS = 400  # of a line; of more, the lowest and the highest in each stretch are drawn
STYLES = 6  # of lines: they differ in dashes as well as in colour

Point = tuple[float, float | None]


class Tick(NamedTuple):
    """A tick of an axis."""

    place: float
    label: str


class Line(NamedTuple):
    """A line, in parts where values are missing."""

    name: str
    style: int
    parts: list[str]  # points of SVG polylines
    dots: list[tuple[float, float]]  # points without a neighbour


class Mark(NamedTuple):
    """A marked point."""

    x: float
    y: float
    kind: str  # point, kept or best


class Chart(NamedTuple):
    """A chart."""

    title: str
    description: str  # for people who do not see it
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    marks: list[Mark]

    @property
    def width(self) -> int:
        """Width of the drawing."""
        return WIDTH

    @property
    def height(self) -> int:
        """Height of the drawing."""
        return HEIGHT

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the field."""
        return LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM


class Series(NamedTuple):
    """Values over the epochs."""

    name: str
    points: Sequence[Point]  # sorted; None: a value that is missing or not finite
    marks: Sequence[tuple[float, float, str]] = ()  # x, y, kind


class Scale(NamedTuple):
    """A scale from values to places."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, to a tenth of a unit."""
        low, high, at = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)


def chart(
    title: str, unit: str, series: Iterable[Series], *, x_label: str, log: bool = False, zero: bool = False
) -> Chart | None:
    """Lays out a chart; None without a value.

    Args:
      title: what is drawn.
      unit: of the values.
      series: the lines.
      x_label: of the axis below.
      log: draw powers of ten at equal distances, if all values are above zero.
      zero: begin the axis at zero.
    """
    shown = [each for each in series if any(y is not None for _, y in each.points)]
    values = [y for each in shown for _, y in each.points if y is not None]
    if not values:
        return None
    log = log and min(values) > 0
    xs = [x for each in shown for x, _ in each.points]
    x = scale(min(0.0, *xs), max(xs), LEFT, WIDTH - RIGHT)
    y = scale(min([0.0, *values] if zero else values), max(values), HEIGHT - BOTTOM, TOP, log=log)
    return Chart(
        title,
        " ".join(_described(each, unit, x_label) for each in shown),
        x_label,
        f"{unit}, log scale" if log and unit else "log scale" if log else unit,
        ticks(x, most=7),
        ticks(y, most=6) if zero or min(values) < max(values) else [Tick(y(values[0]), label(values[0]))],
        [_line(each, index % STYLES, x, y) for index, each in enumerate(shown)],
        [Mark(x(at), y(value), kind) for each in shown for at, value, kind in each.marks],
    )


def scale(low: float, high: float, start: float, end: float, *, log: bool = False) -> Scale:
    """A scale that is never empty, with a margin above and below for values on a logarithmic scale."""
    if log:
        margin = max((high / low) ** 0.04, 1.05)
        return Scale(low / margin, high * margin, start, end, log=True)
    if high - low < 1e-12 * max(abs(high), abs(low), 1e-12):
        high = low + (abs(low) or 1.0)
    return Scale(low, high, start, end)


def ticks(scale: Scale, *, most: int) -> list[Tick]:
    """At most so many ticks, at round values."""
    decades = scale.log and scale.high / scale.low > 10
    values = _log_values(scale, most) if decades else _round_values(scale.low, scale.high, most)
    return [Tick(scale(value), label(value)) for value in values]


def label(value: float) -> str:
    """A value as short text.

    >>> label(1200.0), label(0.25), label(2e-05), label(0.0), label(32768.0)
    ('1,200', '0.25', '2e-5', '0', '32,768')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.4g}"
    if 1e3 <= abs(value) < 1e5:
        return f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _round_values(low: float, high: float, most: int) -> list[float]:
    power = 10 ** math.floor(math.log10((high - low) / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * power) <= most - 1)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)  # 0.01 in float32 is 0.01
    return [number * step for number in range(first, last + 1)]


def _log_values(scale: Scale, most: int) -> list[float]:
    """Powers of ten, with 2 and 5 between them where there is room."""
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    decades = range(first, last + 1)
    for factors, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 5), ((1,), 20), ((1,), 100)):
        values = [factor * 10.0**power for power in decades if power % every == 0 for factor in factors]
        inside = [value for value in values if scale.low <= value <= scale.high]
        if len(inside) <= most:
            return inside if len(inside) > 1 else [scale.low, scale.high]
    return [scale.low, scale.high]


def _line(series: Series, style: int, x: Scale, y: Scale) -> Line:
    parts: list[list[tuple[float, float]]] = [[]]
    for at, value in thinned(series.points):
        if value is None or (y.log and value <= 0):
            parts.append([])
        else:
            parts[-1].append((x(at), y(value)))
    drawn = [" ".join(f"{one:g},{other:g}" for one, other in part) for part in parts if len(part) > 1]
    return Line(series.name, style, drawn, [part[0] for part in parts if len(part) == 1])


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many points: of each stretch the lowest and the highest, so that no peak is lost.

    >>> thinned([(0, 1.0), (1, 9.0), (2, 2.0), (3, 3.0), (4, 1.0), (5, 2.0)], most=4)
    [(0, 1.0), (1, 9.0), (3, 3.0), (4, 1.0)]
    """
    if len(points) <= most:
        return list(points)
    size = -(-len(points) // (most // 2))
    found: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = [(y, index) for index, (_, y) in enumerate(stretch) if y is not None]
        chosen = sorted({min(known)[1], max(known)[1]}) if known else [0]
        found += [stretch[index] for index in chosen]
    return found


def _described(series: Series, unit: str, x_label: str) -> str:
    known = [(x, y) for x, y in series.points if y is not None]
    lowest, highest = (choose(known, key=lambda point: point[1]) for choose in (min, max))
    return (
        f"{series.name}: from {label(known[0][1])} to {label(known[-1][1])}{f' {unit}' if unit else ''}; lowest "
        f"{label(lowest[1])} at {x_label} {label(lowest[0])}, highest {label(highest[1])} at {label(highest[0])}."
    )
