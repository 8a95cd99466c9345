"""Calibration of the p-values of masked recovery: pairs of unrelated maps that are smooth in space.

    python benchmarks/recovery_calibration.py

Each map is white noise, smoothed by a Gaussian of the given length scale (in spots); truth and prediction are
independent, and 30 % of the entries are masked. Printed are the shares of pairs with p < 0.05 and with q < 0.05, by the
effective number of spots as in `get_masked_recovery`, and as if spots were independent.
"""

import argparse

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import dijkstra

from sagefm.model import Autocorrelation, LagPairs, Moments, combined_p, effective_size, q_values

SIDES = (20, 32, 50)  # of a square section, in spots
LENGTH_SCALES = (0, 1, 1.5, 3, 6)  # in spots; 0 is white noise
MARGIN = 40  # spots around the section that are simulated and cut off
N_PAIRS, MASK_FRACTION = 500, 0.3


def two_ring_graph(side: int) -> sp.csr_matrix:
    """Return the graph of a square grid whose spots are joined with those at most two steps away."""
    line = sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(side, side))
    steps = dijkstra(sp.csr_matrix(sp.kronsum(line, line)), unweighted=True, limit=2)
    return sp.csr_matrix((steps > 0) & np.isfinite(steps), dtype=np.float32)


def maps(side: int, length_scale: float, rng: np.random.Generator) -> np.ndarray:
    """Return standardised random maps, (spots, pairs)."""
    noise = rng.normal(size=(N_PAIRS, side + 2 * MARGIN, side + 2 * MARGIN))
    smooth = noise if length_scale == 0 else gaussian_filter(noise, (0, length_scale, length_scale))
    values = smooth[:, MARGIN:-MARGIN, MARGIN:-MARGIN].reshape(N_PAIRS, -1).T
    return ((values - values.mean(axis=0)) / values.std(axis=0)).astype(np.float32)


def p_values(graph: sp.csr_matrix, truth: np.ndarray, prediction: np.ndarray, mask: np.ndarray) -> tuple:
    """Return p-values by the effective number of spots and by the number of masked spots, each (pairs,)."""
    spots = np.arange(len(truth))
    lags = LagPairs(graph, spots)
    observed, predicted = (Autocorrelation(lags, truth.shape[1]) for _ in range(2))
    observed.add(spots, truth)
    predicted.add(spots, prediction, mask)
    moments = Moments(truth.sum(axis=0), len(spots))
    moments.add(mask, truth, prediction, prediction)
    r = moments.correlations()[:1]
    n_effective = effective_size(moments.n, observed.by_distance(), predicted)
    return combined_p(r, n_effective[None]), combined_p(r, moments.n[None])


def measure(side: int, length_scale: float, n_seeds: int) -> dict[str, float]:
    """Return shares of significant pairs for one size and length scale, as averages over seeds."""
    graph, shares = two_ring_graph(side), []
    for seed in range(n_seeds):
        rng = np.random.default_rng([seed, side, int(10 * length_scale)])
        truth, prediction = (maps(side, length_scale, rng) for _ in range(2))
        effective, naive = p_values(graph, truth, prediction, rng.random(truth.shape) < MASK_FRACTION)
        shares.append([(p < 0.05).mean() for p in (effective, q_values(effective), naive, q_values(naive))])
    return dict(zip(("p < 0.05", "q < 0.05", "naive p < 0.05", "naive q < 0.05"), np.mean(shares, axis=0), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    rows = {(side**2, scale): measure(side, scale, arguments.seeds) for side in SIDES for scale in LENGTH_SCALES}
    print(
        pd.DataFrame(rows)
        .T.rename_axis(["spots", "length scale"])
        .reset_index()
        .to_markdown(index=False, floatfmt=".3f")
    )


if __name__ == "__main__":
    main()
