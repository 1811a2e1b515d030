"""The benchmark's plots."""

import re
from xml.etree import ElementTree

import pytest

from tests.bench.plot import HEIGHT, WIDTH, Axis, Chart, Series

SVG = "{http://www.w3.org/2000/svg}"


def drawn(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(chart.svg())  # noqa: S314 - our own text


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def chart(**changes: object) -> Chart:
    usual: dict[str, object] = {
        "title": "Start <to> routes", "x_label": "peers", "y_label": "seconds",
        "series": [
            Series("pyflanneld", [(250, 0.4), (1000, 0.5), (4000, 1.0)]),
            Series("ip -batch", [(250, 0.008), (4000, 0.27)], dashed=True),
        ],
    }  # fmt: skip
    return Chart(**(usual | changes))  # type: ignore[arg-type]


def test_a_chart_says_what_it_shows() -> None:
    """Title, both axes with units, and every line by name; well-formed, whatever the texts."""
    shown = texts(drawn(chart()))
    assert {"Start <to> routes", "peers", "seconds", "pyflanneld", "ip -batch"} <= set(shown)
    assert "1,000" in shown
    assert "0.1" in shown


def test_all_points_lie_inside() -> None:
    """No line leaves the paper, and more is higher."""
    paths = [path.get("d", "") for path in drawn(chart()).iter(f"{SVG}path") if path.get("stroke-width") == "2"]
    lines = [re.findall(r"([\d.]+) ([\d.]+)", path) for path in paths if "L" in path]
    points = [(float(x), float(y)) for line in lines for x, y in line]
    assert len(points) == 5
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    assert points[0][1] > points[1][1] > points[2][1]


def test_equal_ratios_are_equal_distances_on_a_logarithmic_scale() -> None:
    """From 1 to 10 is as far as from 10 to 100."""
    axis = Axis(1, 100, 0, 200)
    assert [axis.at(value) for value in (1, 10, 100)] == [0, 100, 200]
    assert axis.ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Axis(1, 1e6, 0, 1).ticks() == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]


def test_a_linear_scale_has_round_marks() -> None:
    """Begun at zero, in steps of 1, 2 or 5."""
    axis = Axis(0, 87, 400, 0, log=False)
    assert axis.ticks() == [0, 20, 40, 60, 80]
    assert axis.at(0) == 400


def test_what_cannot_be_drawn_is_left_out() -> None:
    """Zero has no place on a logarithmic scale, and what was not measured none on any; nothing at all is an error."""
    some = chart(series=[Series("a", [(0, 1.0), (250, float("nan")), (1000, 2.0)])])
    assert len(list(drawn(some).iter(f"{SVG}circle"))) == 2  # the point, and its mark in the legend
    with pytest.raises(ValueError, match="nothing to draw"):
        chart(series=[Series("a", [])]).svg()


def test_one_point_is_enough() -> None:
    """A single value does not make an empty scale."""
    for log in (True, False):
        assert len(texts(drawn(chart(series=[Series("a", [(250, 3.0)])], log_y=log)))) > 4
