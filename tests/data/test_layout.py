"""Detection of the layout: every lattice at any rotation, with 0 to 50 % of its spots missing."""

import numpy as np
import pytest

from sagefm.data._layout import detect_lattice, lattice_by_directions

HALF = np.sqrt(3) / 2


def array_of(layout: str, n: int = 24) -> np.ndarray:
    """Return rows and columns of the array positions."""
    row, column = np.indices((n, n)).reshape(2, -1)
    return np.c_[row, 2 * column + row % 2] if layout == "hexagonal grid" else np.c_[row, column]


def pixels_of(layout: str, n: int = 24) -> np.ndarray:
    row, column = array_of(layout, n).T.astype(float)
    return 137 * (np.c_[column / 2, row * HALF] if layout == "hexagonal grid" else np.c_[column, row])


def rotated(coordinates: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return coordinates @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("missing", [0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5])
@pytest.mark.parametrize("degrees", [0, 7, 30, 45, 80])
@pytest.mark.parametrize("layout", ["hexagonal grid", "square grid"])
def test_a_lattice_with_missing_spots_is_detected_at_any_rotation(layout, degrees, missing):
    whole = rotated(pixels_of(layout), degrees)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        noisy = whole + rng.normal(0, 0.02 * 137, whole.shape)
        kept = rng.random(len(whole)) >= missing
        assert detect_lattice(whole[kept]) == detect_lattice(noisy[kept]) == layout


@pytest.mark.parametrize("n_spots", [15, 50, 400])
def test_random_places_are_on_no_lattice(n_spots):
    for seed in range(20):
        assert lattice_by_directions(np.random.default_rng(seed).random((n_spots, 2))) is None


@pytest.mark.parametrize("places", [np.zeros((1, 2)) + [[0, 0], [1, 0]], np.c_[np.arange(30), np.zeros(30)]])
def test_spots_in_a_row_are_on_no_lattice(places):
    assert lattice_by_directions(places) is None
    assert detect_lattice(places) == "irregular"


def test_a_stack_has_no_lattice_by_directions():
    assert lattice_by_directions(np.c_[pixels_of("square grid"), np.zeros(576)]) is None


@pytest.mark.parametrize(
    "name",
    ["dlpfc_maynard2021__151673", "tnbc_bassiouni2023__120E", "breast_msti__LBC_DCIS_IC", "her2st_andersson2021__F1"],
)
def test_real_lattices_with_missing_spots_are_detected(real_section, name):
    whole = real_section(name).obsm["spatial"]
    layout = detect_lattice(whole)
    for missing in (0.35, 0.5):
        kept = np.random.default_rng(0).random(len(whole)) >= missing
        assert detect_lattice(rotated(whole[kept], 20)) == layout
