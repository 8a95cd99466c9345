"""The layout of the spots of a section: hexagonal grid, square grid or irregular, detected from the coordinates."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

HEXAGONAL, SQUARE, IRREGULAR = "hexagonal grid", "square grid", "irregular"
# A lattice neighbour lies within this many nearest-neighbour distances; the next ring starts at sqrt(2) or sqrt(3).
LATTICE_TOLERANCE = 1.3
# Directions between near spots agree with one lattice and not with the other. In 75 real sections, the order of the
# lattice was at least 0.90 and that of the other lattice at most 0.33; for cells, both were at most 0.09.
_ORDERED, _DISORDERED = 0.85, 0.5
# On a deformed lattice, near spots are farther away than the nearest one by more than this factor, in the median.
_DEFORMED = 1.1


def detect_lattice(coordinates: np.ndarray) -> str:
    """Classify a layout by the directions to near spots and, if these are not clear, by the number of near spots.

    Directions are clear even if half of the spots of a lattice are missing. The number of neighbours that are about as
    close as the nearest one is clear on a lattice with noisy coordinates and few missing spots. There, the most regular
    quarter of the spots decides, since spots at the border of the tissue have fewer; on a hexagonal lattice, the sixth
    may be a little too far.
    """
    distances, _ = _nearest(coordinates)
    spacing = np.median(distances[:, 0])
    near = distances[distances < LATTICE_TOLERANCE * spacing]
    if len(near) and np.median(near) < _DEFORMED * spacing and (lattice := lattice_by_directions(coordinates)):
        return lattice
    n_near = int((np.quantile(distances, 0.25, axis=0) / spacing < LATTICE_TOLERANCE).sum())
    return {6: HEXAGONAL, 5: HEXAGONAL, 4: SQUARE}.get(n_near, IRREGULAR)


def lattice_by_directions(coordinates: np.ndarray) -> str | None:
    r"""Return the lattice that the directions to near spots agree with, also if it is deformed; None if neither does.

    The global bond-orientational order parameters :math:`|\psi_6|` and :math:`|\psi_4|` (Nelson and Halperin 1979,
    doi:10.1103/PhysRevB.19.2457) are 1 on a hexagonal and on a square lattice, at any rotation.
    """
    if coordinates.shape[1] != 2:
        return None
    distances, neighbors = _nearest(coordinates)
    near = distances < LATTICE_TOLERANCE * np.median(distances[:, 0])
    x, y = (coordinates[neighbors] - coordinates[:, None])[near].T
    if not len(x):
        return None
    directions = np.arctan2(y, x)
    order = {name: float(np.abs(np.exp(1j * n * directions).mean())) for name, n in ((HEXAGONAL, 6), (SQUARE, 4))}
    is_clear = max(order.values()) > _ORDERED and min(order.values()) < _DISORDERED
    return max(order, key=order.__getitem__) if is_clear else None


def _nearest(coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distances to and rows of the six nearest spots, each (n, 6)."""
    return NearestNeighbors(n_neighbors=min(6, len(coordinates) - 1)).fit(coordinates).kneighbors()
