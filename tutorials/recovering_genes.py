# %% [markdown]
# # Recovered and denoised genes
#
# [Download this notebook](https://raw.githubusercontent.com/scverse-sagefm/sagefm/main/tutorials/recovering_genes.ipynb)
# or [open it in Colab](https://colab.research.google.com/github/scverse-sagefm/sagefm/blob/main/tutorials/recovering_genes.ipynb).
#
# Three questions look alike. What would a noisy count be without the noise? What is the pattern of a gene that is
# masked everywhere? And that of a gene that was never measured in this section? The section is F1 of [Andersson et
# al. (2021)](https://doi.org/10.1038/s41467-021-26271-2), a HER2-positive breast tumour on a legacy Spatial
# Transcriptomics array. The packaged weights have not seen this patient.

# %% tags=["hide-input"]
# In Colab: %pip install git+https://github.com/scverse-sagefm/sagefm
import os
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

import sagefm

DATA = Path(os.environ.get("SAGEFM_DATA", "data"))


def her2st(section):
    """Read a section from the data folder, or from the authors."""
    path = DATA / "sections" / f"her2st_andersson2021__{section}.h5ad"
    if path.exists():
        return sc.read_h5ad(path)
    github = "https://raw.githubusercontent.com/almaan/her2st/master/data"
    counts = pd.read_csv(
        f"{github}/ST-cnts/{section}.tsv.gz", sep="\t", index_col=0
    )
    spots = pd.read_csv(
        f"{github}/ST-spotfiles/{section}_selection.tsv", sep="\t"
    )
    spots = spots.set_index(
        spots["x"].astype(str) + "x" + spots["y"].astype(str)
    )
    labels = pd.read_csv(
        f"{github}/ST-pat/lbl/{section}_labeled_coordinates.tsv", sep="\t"
    ).dropna()
    labels.index = [
        f"{x:.0f}x{y:.0f}" for x, y in labels[["x", "y"]].to_numpy()
    ]
    counts = counts.loc[counts.index.isin(spots.index)]
    adata = sc.AnnData(
        csr_matrix(counts.to_numpy("float32")),
        counts.index.to_frame(name="spot"),
        counts.columns.to_frame(),
    )
    adata.obsm["spatial"] = spots.loc[
        adata.obs_names, ["pixel_x", "pixel_y"]
    ].to_numpy()
    adata.obs["annotation"] = labels["label"].reindex(adata.obs_names)
    return adata


def logged(adata, depth=1e4):
    """Return log-normalised expression as a table."""
    adata = sc.pp.normalize_total(adata, target_sum=depth, copy=True)
    return sc.pp.log1p(adata, copy=True).to_df()


# %%
adata = her2st("F1")
model = sagefm.SAGEFM.from_pretrained("human-mini", adata)
print(
    f"{adata.n_obs} spots, {adata.n_vars} genes, "
    f"median {adata.to_df().sum(axis=1).median():.0f} counts"
)

# %% [markdown]
# ## First: does the model know this tissue?
#
# Mask 30 % of the entries, predict them, and correlate the predictions with the counts, gene by gene. Each dot is a
# gene. Above the line, the model is better than the mean of the neighbours, which any smoothing gives you.

# %%
recovery = model.get_masked_recovery()
sagefm.pl.recovery(recovery)
pd.Series(
    {
        name: recovery.attrs[name]
        for name in ("top500_r", "top500_r_neighbors", "top500_r_max")
    }
).round(2)

# %% [markdown]
# These are means over the 500 most expressed genes. `top500_r_max` is the noise ceiling, the correlation that a
# perfect prediction would reach, since counts are noisy: r must be read as a share of it. If the model is not above
# the mean of the neighbours in your section, do not use its predictions there.
#
# ## Genes masked everywhere
#
# The best of the 500 most expressed genes, masked in every spot and predicted from the other genes, next to its
# counts:

# %%
common = adata.to_df().sum().nlargest(500).index
gene = recovery["r"].reindex(common).idxmax()
recovered = model.impute_masked(genes=[gene])
measured = logged(adata, model.target_depth)
axes = sagefm.pl.recovered(adata, recovered)

# %% [markdown]
# The best gene flatters the model; the plot above is for all of them. And the map is smoother than the measured one
# because a prediction is an expected value, without the noise of counting.
#
# ## Genes missing from the panel
#
# Take 200 of the 2,000 most expressed genes out of the section, as if the panel did not have them, and predict them.
# The model treats them as missing, which is not the same as zero.

# %%
rng = np.random.default_rng(0)
known = adata[:, adata.var_names.isin(model.genes)].to_df().sum()
known = known[known > 0].nlargest(2000)
missing = list(rng.choice(known.index, 200, replace=False))
panel = adata[:, ~adata.var_names.isin(missing)].copy()

predicted = model.impute_masked(panel, genes=missing)
r = predicted.corrwith(measured[missing])
pd.Series(
    {"median r": r.median(), "genes with r above 0.2": (r > 0.2).mean()}
).round(2)

# %% [markdown]
# A gene that was never measured can be predicted only from genes that vary with it, and only as far as they do so in
# the tissues that the weights were trained on. There is no mean of the neighbours to compare with: the neighbours
# lack the gene, too. Its level is an estimate as well:

# %%
counts = model.impute_masked(panel, genes=missing, scale="counts").sum()
ratio = counts / adata.to_df()[missing].sum()
ax = np.log10(ratio).plot.hist(bins=30, figsize=(4, 2.5), color="#0072B2")
ax.set(xlabel="log10 of predicted over measured total count")
f"within a factor of three: {((ratio > 1 / 3) & (ratio < 3)).mean():.0%}"

# %% [markdown]
# ## Denoised expression
#
# `SAGEFM.get_normalized_expression` predicts every entry while it is masked in its own spot, so that no count enters
# its own denoised value. Is the result closer to the truth than the counts are? The truth is not known, but a second
# measurement of the same spots is as good: split every count at random into two halves, denoise the first, and
# compare with the second.

# %%
raw = adata.to_df().to_numpy().astype(int)
first = rng.binomial(raw, 0.5)
half, other = adata.copy(), adata.copy()
half.X = csr_matrix(first.astype("float32"))
other.X = csr_matrix((raw - first).astype("float32"))

genes = [gene for gene in common if gene in model.genes][:300]
thinned = sagefm.SAGEFM.from_pretrained("human-mini", half)
denoised = thinned.get_normalized_expression(genes=genes, library_size=1e4)
counts = logged(half)[genes]
neighbours = normalize(half.obsp["spatial_connectivities"], norm="l1")
tables = {
    "counts": counts,
    "mean of the neighbours": neighbours @ counts.to_numpy(),
    "denoised": np.log1p(denoised),
}
truth = logged(other)[genes]
r = {
    name: pd.DataFrame(np.asarray(table), truth.index, genes)
    .corrwith(truth)
    .mean()
    for name, table in tables.items()
}
pd.Series(r).round(2)

# %% [markdown]
# Correlations with the second half, means over the 300 most expressed genes of the model. All are low because the
# second half is noisy; only their order counts.
#
# ## What could go wrong
#
# - **No tests on predicted values.** They are smooth, and neighbouring spots share their information: a test that
#   assumes independent noise finds nearly everything significant. [genes of
#   domains](https://sagefm.readthedocs.io/en/latest/domain_genes.html) shows by how much.
# - Rare genes cannot be recovered: their few counts are mostly chance.
# - In a tissue that the weights have not seen, such as an organ missing from [their
#   list](https://sagefm.readthedocs.io/en/latest/pretraining.html), look at the first plot before all else, and
#   consider `model.train()` on the section.
