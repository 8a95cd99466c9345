"""How well does denoised expression predict counts that it has not seen? Packaged weights and means of neighbours.

    python benchmarks/denoising.py [SECTION ...]

Sections are names of files in the folder that the variable SAGEFM_DATA names. Counts are split at random into two
halves (seed 0). One half is denoised, and compared with the other: mean over the 500 most expressed genes of the
correlation over spots, on the scale of `log1p` of counts at the median library size.
"""

import argparse
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from _sections import section

import sagefm

SECTIONS = [
    "her2st_andersson2021__F1",
    "dlpfc_maynard2021__151674",
    "heart_asp2019__5_CN74_E1_HE",
    "colon_fawknercorbett2021__A3_12PCW",
    "brain_ma2025__T4515",
    "tnbc_bassiouni2023__120E",
]
WEIGHTS, N_GENES = "human-mini", 500


def halves(adata: ad.AnnData) -> tuple[ad.AnnData, sp.csr_matrix]:
    """Return the section with half of its counts, spots without any dropped, and the other half."""
    counts = sp.csr_matrix(adata.X)
    kept = counts.copy()
    kept.data = np.random.default_rng(0).binomial(counts.data.astype(int), 0.5).astype(np.float32)
    seen = adata.copy()
    seen.X, rest = kept, sp.csr_matrix(counts - kept)
    both = (np.ravel(kept.sum(axis=1)) > 0) & (np.ravel(rest.sum(axis=1)) > 0)
    return seen[both].copy(), rest[both]


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of each gene over spots, (genes,); 0 where one of the two does not vary."""
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    norm = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    return np.divide((first * second).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)


def scores(adata: ad.AnnData) -> dict[str, float]:
    """Return the mean correlation with unseen counts for each way of denoising."""
    seen, rest = halves(adata)
    model = sagefm.SAGEFM.from_pretrained(WEIGHTS, seen)
    known = seen.var_names[seen.var_names.isin(model.genes)]
    totals = pd.Series(np.ravel(seen.X.sum(axis=0)), index=seen.var_names)[known]
    genes = list(totals.nlargest(N_GENES).index)
    columns, depth = seen.var_names.get_indexer(genes), float(np.median(np.ravel(seen.X.sum(axis=1))))

    def logged(counts: sp.csr_matrix) -> np.ndarray:
        return np.log1p(counts[:, columns].toarray() * (depth / counts.sum(axis=1).A1[:, None]))

    own, truth = logged(sp.csr_matrix(seen.X)), logged(rest)
    graph = sp.csr_matrix(seen.obsp["spatial_connectivities"], dtype=float)
    n = np.maximum(graph.sum(axis=1).A1, 1)[:, None]
    estimates = {
        "counts": own,
        "neighbours": graph @ own / n,
        "spot and neighbours": (graph @ own + own) / (n + 1),
        "not fitted": np.log1p(
            model.get_normalized_expression(genes=genes, library_size=depth, fit_section=False, return_numpy=True)
        ),
        "fitted": np.log1p(model.get_normalized_expression(genes=genes, library_size=depth, return_numpy=True)),
    }
    return {"spots": seen.n_obs} | {name: correlations(values, truth).mean() for name, values in estimates.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=SECTIONS)
    warnings.simplefilter("ignore")
    rows = {}
    for name in parser.parse_args().sections:
        adata = section(name)
        adata.var_names_make_unique()
        rows[name] = scores(adata)
    table = pd.DataFrame(rows).T.rename_axis("section").reset_index().astype({"spots": int})
    print(table.to_markdown(index=False, floatfmt=".3f"))
