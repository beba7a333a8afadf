"""Pictures for a light page and for a dark one.

Every picture is drawn once, in light colours. :func:`save` writes it, then gives the finished
figure dark colours and writes the twin beside it: ``cost.svg`` and ``cost-dark.svg``. Both have
an opaque background. The same figure gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import Collection
from matplotlib.colors import to_rgb, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

WIDE = 7.6  # inches: the column of text of the documentation, at 96 dots an inch
BLACK, GRAY, GREEN, BLUE = "#222222", "#70757d", "#2e8b3d", "#2a55c8"
RED, ORANGE, VIOLET, BROWN = "#c83232", "#d07a1c", "#8650b8", "#8a6240"
PINK = "#c43b8e"
ARMS = {  # an arm has one colour in all pictures
    "backprop": BLACK,
    "BPTT": BLACK,
    "by hand": GRAY,
    "no backprop": GRAY,
    "raw DNI": RED,
    "raw cDNI": BROWN,
    "DNI": VIOLET,
    "DNI replay": ORANGE,
    "cDNI": BLUE,
    "cDNI loss": PINK,
    "local loss": GREEN,
}
plt.rcParams |= {
    "svg.hashsalt": "dni",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": BLACK,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "grid.color": "#d3d6db",
    "grid.alpha": 0.6,
    "legend.frameon": False,
}
# Lightness (of Oklab) in the light picture, and in the dark one: paper and ink change places,
# pale fills become deep, and colours of lines become as light as a dark page needs.
LIGHT = (0.0, 0.26, 0.50, 0.70, 0.79, 0.88, 0.96, 1.0)
DARK = (0.95, 0.92, 0.75, 0.74, 0.70, 0.40, 0.30, 0.19)
PAPER = "#131416"  # the documentation's dark page; the light one is white
PATHS = ("facecolor", "edgecolor")
PARTS = {
    Text: ("color",),
    Line2D: ("color", "markerfacecolor", "markeredgecolor"),
    Patch: PATHS,
    Collection: PATHS,
}
RGB_TO_LMS = np.array(
    [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
)
LMS_TO_LAB = np.array(
    [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45060], [0.02590, 0.78277, -0.80868]]
)


def save(figure: Figure, path: Path, dpi: int = 160) -> None:
    """Write ``path`` and its dark twin; ``figure`` is dark, and closed, afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"dpi": dpi, "facecolor": "auto"}
    if path.suffix == ".svg":
        options["metadata"] = {"Date": None}
    figure.savefig(path, **options)
    figure.set_layout_engine("none")  # everything stays where it is
    darken(figure)
    figure.savefig(twin(path), **options)
    plt.close(figure)


def twin(path: Path) -> Path:
    """Where the dark picture of ``path`` is."""
    return path.with_name(f"{path.stem}-dark{path.suffix}")


def darken(figure: Figure) -> None:
    """Give everything in ``figure`` the colour that it has on a dark page."""
    artists = figure.findobj()
    artists += [box for one in artists if isinstance(one, Text) and (box := one.get_bbox_patch())]
    changes = []
    for artist in {id(one): one for one in artists}.values():
        if getattr(artist, "get_array", lambda: None)() is not None:
            continue  # its colours stand for numbers
        for kind, names in PARTS.items():
            if isinstance(artist, kind):
                changes += [(artist, name, getattr(artist, f"get_{name}")()) for name in names]
    for artist, name, colors in changes:  # only now: one colour can follow from another
        found = dark(colors)
        getattr(artist, f"set_{name}")(found if isinstance(artist, Collection) else found[0])


def dark(colors: Any) -> np.ndarray:
    """Dark variants of ``colors``, ``(N, 4)``: hue, chroma and opacity stay."""
    rgba = to_rgba_array(colors)
    lab = np.cbrt(_linear(rgba[:, :3]) @ RGB_TO_LMS.T) @ LMS_TO_LAB.T
    lab[:, 0] = np.interp(lab[:, 0], LIGHT, DARK)
    linear = (lab @ np.linalg.inv(LMS_TO_LAB).T) ** 3 @ np.linalg.inv(RGB_TO_LMS).T
    rgb = _encoded(linear.clip(0, 1)).clip(0, 1)
    rgb[(rgba[:, :3] == 1).all(1)] = to_rgb(PAPER)
    return np.hstack([rgb, rgba[:, 3:]])


def _linear(rgb: np.ndarray) -> np.ndarray:
    """Light from sRGB."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _encoded(light: np.ndarray) -> np.ndarray:
    """The sRGB of light."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
