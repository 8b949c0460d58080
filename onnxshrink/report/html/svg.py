"""matplotlib figures as SVG inside a page: colours of the page's theme, text as text, names that do not collide."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from onnxshrink.errors import OnnxShrinkError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "original": "#0a0b01",
    "result": "#0a0b02",
    "line": "#0a0b03",
    "text": "#0a0b04",
    "good": "#0a0b05",
    "page": "#0a0b06",
}
"""What figures are drawn in: stand-ins for the CSS variables ``--original``, ``--result``, …, which know the theme."""

_POINTS_PER_INCH = 72
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_REFERENCE = re.compile(r"#([A-Za-z_][\w.-]*)")
_FONT = re.compile(r"font-family: [^;]*;? ?")

_SETTINGS: dict[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "onnxshrink",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["text"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "text.color": COLOURS["text"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["text"],
    "ytick.labelcolor": COLOURS["text"],
    "legend.frameon": False,
    "legend.fontsize": 10,
}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of so many SVG units, with the settings of all charts in force.

    Raises:
        OnnxShrinkError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra() from error
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        yield Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained")


def missing_extra() -> OnnxShrinkError:
    return OnnxShrinkError("HTML reports need matplotlib and jinja2: pip install 'onnxshrink[html]'")


def inline_svg(drawn: Figure, name: str, description: str) -> str:
    """A figure as an ``<svg>`` element to put into a page.

    Args:
        name: unique on the page: what the figure defines for itself is named after it.
        description: what it shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    used = {
        found for element in root.iter() for value in element.attrib.values() for found in _REFERENCE.findall(value)
    }
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        attributes = {key.replace(_LINK, "href"): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id" and value not in used:
                continue
            element.set(key, f"{name}-{value}" if key == "id" else _attribute(key, value, name, used))
    box = root.get("viewBox", "")
    root.attrib.clear()
    for key, value in (("viewBox", box), ("class", "chart"), ("role", "img"), ("aria-label", description)):
        root.set(key, value)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str, used: set[str]) -> str:
    if key in ("d", "points", "transform", "x", "y"):
        return _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value)
    for colour, stand_in in COLOURS.items():
        value = value.replace(stand_in, f"var(--{colour})")
    value = _FONT.sub("", value)
    return _REFERENCE.sub(lambda found: f"#{name}-{found[1]}" if found[1] in used else found[0], value)
