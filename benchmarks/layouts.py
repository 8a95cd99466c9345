"""How often the layout of a section is detected if spots are missing, over all real sections.

10 to 50 % of the spots are removed at random (seeds 0, 1, 2), the rest is rotated by 0, 11, 30 and 45 degrees, and the
layout is compared with that of the whole section. For sections without a grid, prints whether directions show one.
"""

import itertools

import anndata as ad
import h5py
import numpy as np
from _sections import FOLDER

from sagefm.data._layout import IRREGULAR, detect_lattice, lattice_by_directions

MISSING, DEGREES, SEEDS = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5), (0, 11, 30, 45), range(3)


def rotated(coordinates: np.ndarray, degrees: float) -> np.ndarray:
    """Return the coordinates, (spots, 2), turned around the origin."""
    angle = np.deg2rad(degrees)
    return coordinates @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


if __name__ == "__main__":
    n_grids, outcomes, sizes = 0, [], []
    for path in sorted(FOLDER.glob("*.h5ad")):
        with h5py.File(path) as file:
            whole = np.asarray(ad.io.read_elem(file["obsm/spatial"]), dtype=float)
        layout = detect_lattice(whole)
        if layout == IRREGULAR:
            print(f"{path.stem}: irregular; by directions {lattice_by_directions(whole)}")
            continue
        n_grids += 1
        for missing, degrees, seed in itertools.product(MISSING, DEGREES, SEEDS):
            kept = whole[np.random.default_rng(seed).random(len(whole)) >= missing]
            found = detect_lattice(rotated(kept, degrees))
            outcomes.append("right" if found == layout else "irregular" if found == IRREGULAR else "wrong")
            if outcomes[-1] != "right":
                sizes.append(len(kept))
    counts = {name: outcomes.count(name) for name in ("right", "irregular", "wrong")}
    print(f"{n_grids} sections on a grid, {len(outcomes)} cases: {counts}; spots of those not right: {sorted(sizes)}")
