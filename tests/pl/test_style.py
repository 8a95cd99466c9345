"""Colours of categories, as seen with normal and with colour-deficient vision."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from sagefm.pl._style import PALETTE

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(TO_XYZ @ rgb / TO_XYZ.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(first: str, second: str) -> float:
    bright = [0.05 + (TO_XYZ @ linear(color))[1] for color in (first, second)]
    return max(bright) / min(bright)


@pytest.mark.parametrize("vision", VISION)
def test_any_two_categories_are_distinguishable(vision):
    seen = [lab(np.clip(VISION[vision] @ linear(color), 0, 1)) for color in PALETTE]
    nearest = min(np.linalg.norm(first - second) for first, second in combinations(seen, 2))
    assert nearest > 15  # CIE76; a difference of about 2 is just noticeable


@pytest.mark.parametrize("color", PALETTE)
def test_each_category_is_visible_on_a_dark_page(color):
    assert contrast(color, "#121212") >= 3  # the minimum for graphics in WCAG
