"""Line charts as SVG, without a library: axes with units, a legend, logarithmic scales. Pure.

    chart = Chart("Start to all routes", "peers", "seconds", [Series("pyflanneld", [(250, 0.4), (1000, 0.5)])])
    Path("start.svg").write_text(chart.svg())
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 190, 48, 58
COLOURS = ("#1f5fa8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0e7490")
MARKS = (
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
    '<rect x="{x0:.1f}" y="{y0:.1f}" width="8" height="8"/>',
    '<path d="M{x:.1f} {y0:.1f}l5 8h-10z"/>',
)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its points in the order of x; *dashed* for a second quantity of the same contender, *colour* shared.

    *marked* is for points that stand for themselves; hundreds of samples over time are a line alone.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    colour: int | None = None
    marked: bool = True


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from a range of values to a range of pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = True

    def at(self, value: float) -> float:
        """Return where *value* lies."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return the values to be marked: 1, 2 and 5 of each power of ten, fewer where there are many."""
        if not self.log:
            return _even_ticks(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(decades) <= 4 else (1,)
        values = [step * 10.0**decade for decade in decades for step in steps]
        return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]


def _even_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart; points with values that are not positive are left out where the scale is logarithmic."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = True
    log_y: bool = True
    x_ticks: Sequence[float] = field(default=())

    def svg(self) -> str:
        """Return the whole document. Raises ``ValueError`` when there is no point at all."""
        drawn = [(one, self._points(one)) for one in self.series]
        points = [point for _, found in drawn for point in found]
        if not points:
            raise ValueError(f"{self.title}: there is nothing to draw")
        x = _axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log=self.log_x)
        y = _axis([y for _, y in points], HEIGHT - BOTTOM, TOP, log=self.log_y)
        body = [*self._frame(x, y)]
        for number, (one, found) in enumerate(drawn):
            colour = number if one.colour is None else one.colour
            body += _line(one, found, x, y, COLOURS[colour % len(COLOURS)], MARKS[colour % len(MARKS)])
            body += _legend(one, number, COLOURS[colour % len(COLOURS)], MARKS[colour % len(MARKS)])
        lines = "\n".join(body)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'font-family="sans-serif" font-size="13" role="img">\n<title>{escape(self.title)}</title>\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{lines}\n</svg>\n'
        )

    def _points(self, series: Series) -> list[tuple[float, float]]:
        return [
            (x, y) for x, y in series.points
            if not math.isnan(y) and (x > 0 or not self.log_x) and (y > 0 or not self.log_y)
        ]  # fmt: skip

    def _frame(self, x: Axis, y: Axis) -> list[str]:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts = [_text(LEFT, 26, self.title, size=16, weight="bold")]
        parts += [_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, self.x_label, anchor="middle")]
        parts += [
            f'<text transform="translate(18 {middle:.0f}) rotate(-90)" text-anchor="middle" fill="#222">'
            f"{escape(self.y_label)}</text>"
        ]
        for value in y.ticks():
            at = y.at(value)
            parts += [f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>']
            parts += [_text(LEFT - 8, at + 4, _label(value), anchor="end")]
        for value in self.x_ticks or x.ticks():
            at = x.at(value)
            parts += [f'<path d="M{at:.1f} {HEIGHT - BOTTOM}v5" stroke="#222"/>']
            parts += [_text(at, HEIGHT - BOTTOM + 20, _label(value), anchor="middle")]
        parts += [f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#222"/>']
        return parts


def _axis(values: Sequence[float], start: float, end: float, *, log: bool) -> Axis:
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.3, high * 1.3, start, end, log=True)
    return Axis(min(0.0, low), high * 1.1 or 1.0, start, end, log=False)


def _line(one: Series, points: Sequence[tuple[float, float]], x: Axis, y: Axis, colour: str, mark: str) -> list[str]:
    if not points:
        return []
    path = "L".join(f"{x.at(px):.1f} {y.at(py):.1f}" for px, py in points)
    dash = ' stroke-dasharray="6 4"' if one.dashed else ""
    marks = "".join(_mark(mark, x.at(px), y.at(py)) for px, py in points if one.marked)
    fill = "#ffffff" if one.dashed else colour
    return [
        f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>',
        f'<g fill="{fill}" stroke="{colour}">{marks}</g>',
    ]


def _legend(one: Series, number: int, colour: str, mark: str) -> list[str]:
    x, y = WIDTH - RIGHT + 18, TOP + 12 + 22 * number
    dash = ' stroke-dasharray="6 4"' if one.dashed else ""
    fill = "#ffffff" if one.dashed else colour
    return [
        f'<path d="M{x} {y}h26" stroke="{colour}" stroke-width="2"{dash}/>',
        f'<g fill="{fill}" stroke="{colour}">{_mark(mark, x + 13, y)}</g>',
        _text(x + 34, y + 4, one.name),
    ]


def _mark(mark: str, x: float, y: float) -> str:
    return mark.format(x=x, y=y, x0=x - 4, y0=y - 4)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="#222">'
        f"{escape(text)}</text>"
    )


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 and value == round(value) else f"{value:.6f}".rstrip("0").rstrip(".")
