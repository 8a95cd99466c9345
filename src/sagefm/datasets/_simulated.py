"""A simulated Visium-like section with known domains, gene programmes and ligand effects."""

from numbers import Integral, Real

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.special import expit, softmax

from sagefm._errors import refuse_unknown
from sagefm.datasets._simulated_truth import MIN_GENES_PER_PROGRAMME, N_CELL_TYPES, N_GRADIENTS, Truth, draw_truth

# Geometry, in micrometres. Each radius lies between two rings of the hexagonal lattice.
_SPACING, _RING_1_RADIUS, _RING_2_RADIUS = 100.0, 105.0, 205.0
_RING_2_WEIGHT = 0.25
_BORDER_WIDTH = 60.0
_N_WAVES = 128

_LIGAND_SWITCH = 2.0

# Counts. A mean of 2.25 UMIs per gene is 4,500 UMIs per spot at 2,000 genes, equally sparse for any number of genes.
_UMIS_PER_GENE = 2.25
_LIBRARY_SD, _SECTION_GENE_SD, _SECTION_DEPTH_SD = 0.45, 0.3, 0.4


def simulated_tissue(
    n_rows: int = 50,
    n_cols: int = 45,
    *,
    n_genes: int = 2000,
    n_layers: int = 6,
    n_niches: int = 2,
    n_interactions: int = 6,
    n_sections: int = 1,
    outline: str = "blob",
    library_size: float | None = None,
    seed: int = 0,
) -> ad.AnnData:
    r"""Simulate Visium-like sections with known domains, gene programmes and ligand effects.

    The expected count of gene :math:`g` in spot :math:`i` is the spot's library size times the softmax over genes of

    .. math:: b_g + s_g + \sum_p a_{ip} w_{pg} + 2\, l_{ig} + \sum_{h \to g} e_{hg} \sum_j k_{ij} l_{jh}

    with a baseline :math:`b`, a section effect :math:`s`, and the activity :math:`a` and loading :math:`w` of each
    programme. The programmes are anatomical domains that mix at their borders, smooth gradients, and cell-type
    proportions that are independent from spot to spot, so that a spot's own genes contain information that its
    neighbours do not. Only ligands have a switch :math:`l` in [0, 1], which is on in patches that are independent of
    the domains. The kernel :math:`k` averages it over the neighbours, without the spot itself: 6 in the first ring
    with weight 1, 12 in the second with weight 1/4. Counts are negative binomial.

    Parameters
    ----------
    n_rows, n_cols
        Rows of the hexagonal lattice and spots per row, before the tissue is cut out.
    n_genes
        Number of genes, including ligands, targets and decoys.
    n_layers, n_niches
        Number of curved anatomical bands, and number of types of patches that override them.
    n_interactions
        Number of ligand-target pairs with a planted effect. The same number of decoy pairs share a domain but have no
        effect.
    n_sections
        Number of sections; they share programmes and effects, but differ in geometry, depth and gene-specific factors.
    outline
        `"blob"` keeps about 3/4 of the lattice, in the shape of a piece of tissue; `"rectangle"` keeps all of it.
    library_size
        Expected median of the UMIs per spot in the first section; other sections vary around it. 2.25 per gene by
        default.
    seed
        The same seed gives the identical object. The first section does not depend on `n_sections`.

    Returns
    -------
    anndata.AnnData
        (spots, genes), with

        - `X`: raw integer counts, CSR float32, and no other layer.
        - `obs`: `array_row` and `array_col` in the Visium convention, `sample`, and `annotation`, the prevailing
          domain.
        - `obsm["spatial"]`: (spots, 2) in micrometres, with neighbours 100 apart. Sections overlap, as real ones do.
        - `obsm["programmes"]`: (spots, programmes), the true activities.
        - `var`: `role` of each gene, and the `programme` that it follows (`"none"` if it follows none).
        - `uns["simulated_tissue"]`: the tables `interactions` (source, target, effect, sign), where `effect` is the
          change of the target's log mean when the ligand goes from off to on in all neighbours; `decoys` (source,
          target, domain); and `markers` (programme, gene, loading).

    Raises
    ------
    ValueError
        If an argument is out of range, or `n_genes` is too small for the requested programmes and pairs.

    Notes
    -----
    Log-normal library sizes and gamma-Poisson counts follow Splatter [1]_; gene means are log-normal here and gamma
    there. Cell-type proportions are logistic-normal [2]_; smooth fields are sums of random Fourier features [3]_.

    References
    ----------
    .. [1] Zappia, Phipson and Oshlack (2017), Splatter: simulation of single-cell RNA sequencing data, Genome Biology.
    .. [2] Aitchison and Shen (1980), Logistic-normal distributions: some properties and uses, Biometrika.
    .. [3] Rahimi and Recht (2007), Random features for large-scale kernel machines, NIPS.

    Examples
    --------
    >>> from sagefm.datasets import simulated_tissue
    >>> adata = simulated_tissue(20, 20, n_genes=300, n_interactions=2)
    >>> adata.shape
    (300, 300)
    >>> adata.uns["simulated_tissue"]["interactions"]["target"].tolist()
    ['TGT1', 'TGT2']
    """
    _check_whole_numbers(n_rows=(n_rows, 3), n_cols=(n_cols, 3), n_layers=(n_layers, 1), n_niches=(n_niches, 0))
    _check_whole_numbers(n_interactions=(n_interactions, 0), n_sections=(n_sections, 1), seed=(seed, 0))
    _check_n_genes(n_genes, n_layers + n_niches + N_GRADIENTS + N_CELL_TYPES, n_interactions)
    refuse_unknown("outline", outline, ("blob", "rectangle"))
    library_size = _UMIS_PER_GENE * n_genes if library_size is None else library_size
    _check_library_size(library_size)

    truth_rng, *section_rngs = np.random.default_rng(seed).spawn(n_sections + 1)
    truth = draw_truth(truth_rng, n_genes, n_layers, n_niches, n_interactions)
    # The first section has the requested depth; the others vary around it.
    depths = library_size * np.exp(_SECTION_DEPTH_SD * np.r_[0.0, truth_rng.standard_normal(n_sections - 1)])
    sections = {
        f"section_{i + 1}": _draw_section(rng, truth, _draw_tissue(rng, n_rows, n_cols, outline), depths[i])
        for i, rng in enumerate(section_rngs)
    }
    adata = ad.concat(sections, label="sample", index_unique="-")
    adata.var = truth.genes
    tables = {"interactions": truth.interactions, "decoys": truth.decoys, "markers": truth.markers()}
    adata.uns["simulated_tissue"] = tables
    return adata


# Geometry of a section -----------------------------------------------------------------------------------------------


def _draw_tissue(rng: np.random.Generator, n_rows: int, n_cols: int, outline: str) -> pd.DataFrame:
    row, step = np.divmod(np.arange(n_rows * n_cols), n_cols)
    # Visium counts columns in half spacings and shifts odd rows by one.
    grid = pd.DataFrame({"array_row": row, "array_col": 2 * step + row % 2})
    return grid if outline == "rectangle" else grid[_draw_blob(rng, _micrometres(grid))]


def _micrometres(grid: pd.DataFrame) -> np.ndarray:
    return grid[["array_col", "array_row"]].to_numpy() * [_SPACING / 2, _SPACING * np.sqrt(0.75)]


def _draw_blob(rng: np.random.Generator, spatial: np.ndarray) -> np.ndarray:
    """Return which spots belong to one connected piece, an ellipse with a wavy and ragged edge; boolean (spots,)."""
    radius = np.linalg.norm(2 * (spatial - spatial.min(axis=0)) / np.ptp(spatial, axis=0) - 1, axis=1)
    wavy, ragged = _smooth_fields(rng, spatial, [_extent(spatial) / 4, 1.5 * _SPACING]).T
    score = radius + 0.12 * wavy + 0.03 * ragged
    kept = np.flatnonzero(score <= np.quantile(score, 0.75))
    _, piece = connected_components(_neighbour_weights(spatial[kept], _RING_1_RADIUS))
    inside = np.zeros(len(spatial), dtype=bool)
    inside[kept[piece == np.bincount(piece).argmax()]] = True
    return inside


def _smooth_fields(rng: np.random.Generator, spatial: np.ndarray, length_scales: ArrayLike) -> np.ndarray:
    """Draw Gaussian fields with squared-exponential covariance, (spots, fields), each of mean 0 and variance 1."""
    scales = np.reshape(length_scales, (-1, 1, 1))
    waves = rng.standard_normal((len(scales), 2, _N_WAVES)) / scales
    phases = rng.uniform(0.0, 2 * np.pi, (len(scales), 1, _N_WAVES))
    fields = np.cos(spatial @ waves + phases).mean(axis=2).T
    return (fields - fields.mean(axis=0)) / fields.std(axis=0)


def _extent(spatial: np.ndarray) -> float:
    return np.ptp(spatial, axis=0).max()


def _neighbour_weights(spatial: np.ndarray, radius: float) -> csr_matrix:
    """Return the weights of each spot's neighbours within `radius`, (spots, spots); rows sum to one."""
    pairs = cKDTree(spatial).query_pairs(radius, output_type="ndarray")
    distance = np.linalg.norm(spatial[pairs[:, 0]] - spatial[pairs[:, 1]], axis=1)
    weight = np.where(distance < _RING_1_RADIUS, 1.0, _RING_2_WEIGHT)
    one_way = csr_matrix((weight, pairs.T), shape=(len(spatial), len(spatial)))
    weights = one_way + one_way.T
    return csr_matrix(weights.multiply(1 / weights.sum(axis=1)))


# Expression of a section ---------------------------------------------------------------------------------------------


def _draw_section(rng: np.random.Generator, truth: Truth, grid: pd.DataFrame, depth: float) -> ad.AnnData:
    spatial = _micrometres(grid)
    domains = _draw_domains(rng, spatial, len(truth.layers), len(truth.niches))
    gradients = _smooth_fields(rng, spatial, np.repeat(_extent(spatial) / 3, N_GRADIENTS))
    # Cell types are independent from spot to spot: a spot's own genes are then more than its neighbours predict.
    preference = domains @ truth.cell_type_preference
    cell_types = softmax(preference + 1.2 * rng.standard_normal(preference.shape), axis=1)
    activity = np.hstack([domains, gradients, cell_types])
    log_rate = truth.baseline + rng.normal(0.0, _SECTION_GENE_SD, truth.baseline.size) + activity @ truth.loadings
    switched_on = _draw_ligands(rng, spatial, truth.ligand_length_scales)
    _add_ligands(log_rate, truth, switched_on, _neighbour_weights(spatial, _RING_2_RADIUS))
    mean = _draw_library_sizes(rng, spatial, depth)[:, None] * softmax(log_rate, axis=1)

    obs = grid.set_axis((grid["array_row"].astype(str) + "x" + grid["array_col"].astype(str)).to_numpy())
    obs["annotation"] = pd.Categorical.from_codes(domains.argmax(axis=1), pd.Index(truth.layers + truth.niches))
    obsm = {"spatial": spatial, "programmes": pd.DataFrame(activity, index=obs.index, columns=truth.programmes)}
    return ad.AnnData(_draw_counts(rng, mean, truth.dispersion), obs=obs, var=truth.genes[[]], obsm=obsm)


def _draw_domains(rng: np.random.Generator, spatial: np.ndarray, n_layers: int, n_niches: int) -> np.ndarray:
    """Draw the share of each domain in each spot, (spots, layers and niches); niches override what lies below them."""
    shares = _draw_layers(rng, spatial, n_layers)
    scores = _smooth_fields(rng, spatial, np.repeat(_extent(spatial) / 10, n_niches))
    for score in scores.T:
        niche = expit((score - np.quantile(score, 0.93)) / 0.15)[:, None]
        shares = np.hstack([shares * (1 - niche), niche])
    return shares


def _draw_layers(rng: np.random.Generator, spatial: np.ndarray, n_layers: int) -> np.ndarray:
    """Draw the share of each layer, (spots, layers): bands of unequal width around a point outside the tissue."""
    extent, angle = _extent(spatial), rng.uniform(0.0, 2 * np.pi)
    centre = spatial.mean(axis=0) + 0.9 * extent * np.array([np.cos(angle), np.sin(angle)])
    waviness = _smooth_fields(rng, spatial, [extent / 5])[:, 0]
    distance = np.linalg.norm(spatial - centre, axis=1) + 0.04 * extent * waviness
    borders = np.quantile(distance, np.cumsum(rng.dirichlet(np.full(n_layers, 12.0)))[:-1])
    beyond = expit((distance[:, None] - borders) / _BORDER_WIDTH)
    return -np.diff(beyond, axis=1, prepend=1.0, append=0.0)


def _draw_ligands(rng: np.random.Generator, spatial: np.ndarray, length_scales: np.ndarray) -> np.ndarray:
    """Draw the switch of each ligand, (spots, ligands) in [0, 1]: on in patches that are independent of the domains."""
    patches = _smooth_fields(rng, spatial, length_scales)
    scattered = rng.standard_normal(patches.shape)
    return expit(4 * (0.85 * patches + 0.5 * scattered - 0.5))


def _add_ligands(log_rate: np.ndarray, truth: Truth, switched_on: np.ndarray, weights: csr_matrix) -> None:
    log_rate[:, truth.genes_with_role("ligand", "decoy_ligand")] += _LIGAND_SWITCH * switched_on
    received = weights @ switched_on[:, : len(truth.interactions)]
    log_rate[:, truth.genes_with_role("target")] += truth.interactions["effect"].to_numpy() * received


def _draw_library_sizes(rng: np.random.Generator, spatial: np.ndarray, median: float) -> np.ndarray:
    # Library sizes vary between regions (permeabilisation, cell density) as much as between spots.
    regional = _smooth_fields(rng, spatial, [_extent(spatial) / 8])[:, 0]
    individual = rng.standard_normal(len(spatial))
    return median * np.exp(_LIBRARY_SD * np.sqrt(0.5) * (regional + individual))


def _draw_counts(rng: np.random.Generator, mean: np.ndarray, dispersion: np.ndarray) -> csr_matrix:
    """Draw negative-binomial counts, as Poisson counts whose rate is gamma-distributed with shape `dispersion`."""
    counts = rng.poisson(rng.standard_gamma(dispersion, mean.shape) * (mean / dispersion))
    # A spot without counts cannot be normalised: it gets one count of its most expressed gene.
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    counts[empty, mean[empty].argmax(axis=1)] = 1
    return csr_matrix(counts, dtype=np.float32)


# Arguments -----------------------------------------------------------------------------------------------------------


def _check_whole_numbers(**arguments: tuple[object, int]) -> None:
    for name, (value, lowest) in arguments.items():
        if not isinstance(value, Integral) or value < lowest:
            raise ValueError(f"{name} is {value!r}; expected a whole number: pass {name}={lowest} or more.")


def _check_n_genes(n_genes: object, n_programmes: int, n_pairs: int) -> None:
    needed = MIN_GENES_PER_PROGRAMME * n_programmes + 4 * n_pairs
    if not isinstance(n_genes, Integral) or n_genes < needed:
        raise ValueError(
            f"n_genes is {n_genes!r}; expected a whole number of at least {needed}, for {n_programmes} programmes of "
            f"{MIN_GENES_PER_PROGRAMME} and {n_pairs} interactions of 4 genes, decoys included: pass more genes, "
            "or lower n_layers, n_niches or n_interactions."
        )


def _check_library_size(library_size: object) -> None:
    if not isinstance(library_size, Real) or not 0 < float(library_size) < np.inf:
        raise ValueError(
            f"library_size is {library_size!r}; expected a positive, finite number of UMIs per spot: pass one, or None "
            f"for {_UMIS_PER_GENE} per gene."
        )
