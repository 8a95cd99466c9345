"""How many genes are called different between two groups of spots that do not differ? Measured and denoised values.

    python benchmarks/quality/domain_genes.py

Sections: F1 and E1 of her2st, of two patients. The groups are of three kinds:

- "random spots": half of the spots of one annotated class, drawn at random: no gene differs;
- "halves": the spots of one annotated class on either side of a random line: the same tissue at two places;
- "clusters": two clusters of the spots of one class, found in the same counts (double dipping). Half of the counts of
  each spot (binomial thinning) find the clusters, and "other half" tests the rest, which the clusters do not know.

Genes are compared by `scanpy.tl.rank_genes_groups` (Wilcoxon), on log-normalised counts and on the denoised values
of `SAGEFM.get_normalized_expression`: the share of the 500 most expressed genes with an adjusted p below 0.05, mean of
20 draws of groups (clusters: 5 draws of thinning), seed 0.
"""

import warnings
from collections.abc import Iterator

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from _inputs import joined
from sklearn.cluster import KMeans

import sagefm

SECTIONS = {"her2st_andersson2021__F1": "invasive cancer", "her2st_andersson2021__E1": "invasive cancer"}
N_DRAWS, N_THINNINGS, N_GENES = 20, 5, 500


def logged(adata: ad.AnnData) -> pd.DataFrame:
    """Return log-normalised measured expression."""
    return sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True).to_df()


def denoised(adata: ad.AnnData, genes: pd.Index) -> pd.DataFrame:
    """Return denoised expression on the same scale."""
    model = sagefm.SAGEFM.from_pretrained("human-mini", adata)
    return np.log1p(model.get_normalized_expression(genes=genes, library_size=1e4))


def share_called(values: pd.DataFrame, group: np.ndarray) -> float:
    """Return the share of genes with an adjusted p below 0.05 between the spots of a group and the others."""
    table = ad.AnnData(values, obs=pd.DataFrame({"group": pd.Categorical(group.astype(str))}, index=values.index))
    sc.tl.rank_genes_groups(table, "group", groups=["True"], reference="False", method="wilcoxon")
    return float((sc.get.rank_genes_groups_df(table, "True")["pvals_adj"] < 0.05).mean())


def null_groups(adata: ad.AnnData, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of a kind of groups, and which spots are in the first group."""
    for _ in range(N_DRAWS):
        yield "random spots", rng.permutation(adata.n_obs) < adata.n_obs // 2
        across = adata.obsm["spatial"] @ rng.normal(size=2)
        yield "halves", across < np.median(across)


def thinned(adata: ad.AnnData, rng: np.random.Generator) -> tuple[ad.AnnData, ad.AnnData]:
    """Return the section with half of its counts, and with the others."""
    counts = sp.csr_matrix(adata.X)
    first = counts.copy()
    first.data = rng.binomial(counts.data.astype(int), 0.5).astype(np.float32)
    halves = adata.copy(), adata.copy()
    halves[0].X, halves[1].X = first, counts - first
    return halves


def clusters(values: pd.DataFrame) -> np.ndarray:
    """Return which spots are in the first of two clusters of principal components."""
    return KMeans(2, n_init=5, random_state=0).fit_predict(sc.pp.pca(values.to_numpy(), n_comps=10)) == 1


def measure(name: str, label: str) -> Iterator[dict[str, object]]:
    """Yield shares of genes called, for every draw of groups."""
    rng = np.random.default_rng(0)
    adata = joined([name])
    one_class = (adata.obs["annotation"] == label).to_numpy()
    model_genes = sagefm.SAGEFM.from_pretrained("human-mini", adata).genes
    genes = adata.to_df().loc[one_class, adata.var_names.isin(model_genes)].sum().nlargest(N_GENES).index
    values = {"counts": logged(adata)[genes], "denoised": denoised(adata, genes)}
    for kind, group in null_groups(adata[one_class], rng):
        for source, table in values.items():
            yield {"section": name, "groups": kind, "values": source, "share": share_called(table[one_class], group)}
    for _ in range(N_THINNINGS):
        halves = thinned(adata, rng)
        first, second = (logged(half).loc[one_class, genes] for half in halves)
        group = clusters(first)
        smooth = denoised(halves[0], genes)[one_class]
        for source, table in (("counts", first), ("other half", second), ("denoised", smooth)):
            yield {"section": name, "groups": "clusters", "values": source, "share": share_called(table, group)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rows = pd.DataFrame([row for name, label in SECTIONS.items() for row in measure(name, label)])
    means = rows.pivot_table(index=["section", "groups"], columns="values", values="share")
    print(means.to_markdown(floatfmt=".3f"))
