"""What the sections of a simulated tissue share: genes, programmes, and the effects of ligands on targets."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

# Mean effect of one unit of a programme's activity on the log expression of its own genes.
_LOADING = {"layer": 0.95, "niche": 0.95, "gradient": 0.4, "cell_type": 3.5}
N_GRADIENTS, N_CELL_TYPES = 3, 8
_PROGRAMME_SHARE, MIN_GENES_PER_PROGRAMME = 0.7, 3
_GENE_SD = 2.3  # of the baselines, in natural logs


@dataclass(frozen=True)
class Truth:
    """What all sections share.

    `genes` is the table of genes and their roles; `baseline` and `dispersion` are (genes,), `loadings` is (programmes,
    genes), in natural logs.
    """

    genes: pd.DataFrame
    layers: list[str]
    niches: list[str]
    programmes: list[str]
    baseline: np.ndarray
    dispersion: np.ndarray
    loadings: np.ndarray
    cell_type_preference: np.ndarray
    ligand_length_scales: np.ndarray
    interactions: pd.DataFrame
    decoys: pd.DataFrame

    def genes_with_role(self, *roles: str) -> np.ndarray:
        """Return the positions of the genes with one of these roles."""
        return np.flatnonzero(self.genes["role"].isin(roles))

    def markers(self) -> pd.DataFrame:
        """Return the genes of every programme, with their loadings."""
        gene = self.genes_with_role("marker")
        programme = self.genes["programme"].iloc[gene].to_numpy(str)
        loading = self.loadings[pd.Index(self.programmes).get_indexer(pd.Index(programme)), gene]
        table = pd.DataFrame({"programme": programme, "gene": self.genes.index[gene], "loading": loading})
        return table.set_axis(table.index.astype(str))


def draw_truth(rng: np.random.Generator, n_genes: int, n_layers: int, n_niches: int, n_pairs: int) -> Truth:
    """Draw what all sections share."""
    layers, niches = _numbered("layer_", n_layers), _numbered("niche_", n_niches)
    programmes = layers + niches + _numbered("gradient_", N_GRADIENTS) + _numbered("cell_type_", N_CELL_TYPES)
    decoys = _pairs("DECOYLIG", "DECOYTGT", n_pairs)
    decoys["domain"] = np.resize(rng.permutation(layers + niches), n_pairs)
    genes = _draw_genes(rng, n_genes, programmes, decoys)
    return Truth(
        genes=genes,
        layers=layers,
        niches=niches,
        programmes=programmes,
        baseline=_draw_baseline(rng, genes),
        dispersion=rng.lognormal(np.log(3.0), 0.5, n_genes),
        loadings=_draw_loadings(rng, genes, programmes),
        cell_type_preference=rng.normal(0.0, 0.5, (n_layers + n_niches, N_CELL_TYPES)),
        # From a few spots to broad patches; ligands first, then decoy ligands, as in the gene table.
        ligand_length_scales=np.tile(np.geomspace(150.0, 400.0, n_pairs), 2),
        interactions=_draw_interactions(rng, n_pairs),
        decoys=decoys,
    )


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i + 1}" for i in range(n)]


def _pairs(source: str, target: str, n: int) -> pd.DataFrame:
    # Row names are strings, as .h5ad files require.
    return pd.DataFrame({"source": _numbered(source, n), "target": _numbered(target, n)}, index=_numbered("pair_", n))


def _draw_interactions(rng: np.random.Generator, n_pairs: int) -> pd.DataFrame:
    # Every third effect is negative, which exposes a method that only ever finds activation.
    sign = np.where(np.arange(n_pairs) % 3 == 2, -1, 1)
    return _pairs("LIG", "TGT", n_pairs).assign(effect=sign * rng.uniform(1.4, 2.0, n_pairs), sign=sign)


def _draw_genes(rng: np.random.Generator, n_genes: int, programmes: list[str], decoys: pd.DataFrame) -> pd.DataFrame:
    n_pairs = len(decoys)
    n_free = n_genes - 4 * n_pairs
    n_markers = max(int(_PROGRAMME_SHARE * n_free), MIN_GENES_PER_PROGRAMME * len(programmes))
    own = rng.permutation(np.r_[np.resize(programmes, n_markers), np.repeat("none", n_free - n_markers)])
    paired_roles = np.repeat(["ligand", "target", "decoy_ligand", "decoy_target"], n_pairs)
    role = np.r_[np.where(own == "none", "background", "marker"), paired_roles]
    programme = np.r_[own, np.repeat("none", 2 * n_pairs), np.tile(decoys["domain"].to_numpy(str), 2)]
    names = [f"GENE{i + 1:04d}" for i in range(n_free)]
    for prefix in ("LIG", "TGT", "DECOYLIG", "DECOYTGT"):
        names += _numbered(prefix, n_pairs)
    return pd.DataFrame({"role": pd.Categorical(role), "programme": pd.Categorical(programme)}, index=names)


def _draw_baseline(rng: np.random.Generator, genes: pd.DataFrame) -> np.ndarray:
    # Normal quantiles instead of normal draws: no seed then gives half of all counts to one gene.
    baseline = _GENE_SD * rng.permutation(ndtri((np.arange(len(genes)) + 0.5) / len(genes)))
    # No method could recover the effect of a ligand or on a target that is hardly ever counted.
    paired = ~genes["role"].isin(["marker", "background"]).to_numpy()
    baseline[paired] = _GENE_SD * rng.uniform(1.0, 1.6, paired.sum())
    return baseline


def _draw_loadings(rng: np.random.Generator, genes: pd.DataFrame, programmes: list[str]) -> np.ndarray:
    loadings = rng.normal(0.0, 0.1, (len(programmes), len(genes)))
    own = np.asarray(programmes)[:, None] == genes["programme"].to_numpy(str)
    strength = np.array([_LOADING[programme.rsplit("_", 1)[0]] for programme in programmes])
    # A decoy pair follows its domain closely, so that it looks as plausible as a true pair.
    spread = rng.gamma(10.0, 0.1, len(genes)) * np.where(genes["role"].isin(["decoy_ligand", "decoy_target"]), 2.0, 1.0)
    return loadings + own * strength[:, None] * spread
