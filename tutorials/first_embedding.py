# %% [markdown]
# # Embedding and domains of one section
#
# [Download this notebook](https://raw.githubusercontent.com/scverse-sagefm/sagefm/main/tutorials/first_embedding.ipynb)
# or [open it in Colab](https://colab.research.google.com/github/scverse-sagefm/sagefm/blob/main/tutorials/first_embedding.ipynb).
#
# From raw counts to a map of spatial domains and their genes, in a few minutes on a laptop. The section is number
# 151674 of [Maynard et al. (2021)](https://doi.org/10.1038/s41593-020-00787-0): human dorsolateral prefrontal cortex
# on Visium, in which experts annotated six layers and white matter.
#
# A function reads it from a folder, or else downloads it from the authors. To use your own section, replace the line
# that calls it by `adata = sc.read_h5ad("section.h5ad")`: raw counts in `X`, gene symbols in `var_names`, spot
# coordinates in `obsm["spatial"]`.

# %% tags=["hide-input"]
# In Colab: %pip install git+https://github.com/scverse-sagefm/sagefm
import os
from pathlib import Path

import pandas as pd
import pooch
import scanpy as sc
import squidpy as sq
from sklearn.metrics import adjusted_rand_score

import sagefm

DATA = Path(os.environ.get("SAGEFM_DATA", "data"))


def cortex(section):
    """Read a section from the data folder, or from the authors."""
    path = DATA / "sections" / f"dlpfc_maynard2021__{section}.h5ad"
    if path.exists():
        return sc.read_h5ad(path)
    counts = (
        "https://spatial-dlpfc.s3.us-east-2.amazonaws.com/h5/"
        f"{section}_filtered_feature_bc_matrix.h5"
    )
    github = "https://raw.githubusercontent.com/LieberInstitute"
    github += "/HumanPilot/master/10X"
    adata = sc.read_10x_h5(pooch.retrieve(counts, known_hash=None))
    adata.var_names_make_unique()
    spots = pd.read_csv(
        f"{github}/{section}/tissue_positions_list.txt",
        header=None,
        index_col=0,
    )
    layers = pd.read_csv(
        f"{github}/barcode_level_layer_map.tsv",
        sep="\t",
        header=None,
        index_col=0,
    )
    layers = layers.loc[layers[1] == int(section), 2].str.replace(
        "L", "Layer"
    )
    adata.obsm["spatial"] = spots.loc[adata.obs_names, [5, 4]].to_numpy(
        float
    )
    adata.obs["annotation"] = layers.reindex(adata.obs_names).astype(
        "category"
    )
    return adata


# %%
adata = cortex("151674")
adata

# %% [markdown]
# ## Embed
#
# The packaged weights `"human-mini"` (for mouse: `"mouse-mini"`) are used as they are. Genes are matched by name, and
# a neighbour graph is built from the coordinates: on Visium, two rings, 18 neighbours. Counts are normalised by the
# model, so do not normalise them before.

# %%
model = sagefm.SAGEFM.from_pretrained("human-mini", adata)
model.get_latent_representation()
adata.obsm["X_sagefm"].shape

# %% [markdown]
# These weights have seen the neighbouring section of the same donor, without its annotation, and this section was
# used to decide when to stop training. So this is an easy case for them;
# [pretraining](https://sagefm.readthedocs.io/en/latest/pretraining.html) has their scores on tissues that they have
# not seen.
#
# The embedding is an entry of `obsm` like any other. A UMAP of it, coloured by the annotation:

# %%
sc.pp.neighbors(adata, use_rep="X_sagefm")
sc.tl.umap(adata)
sc.pl.umap(adata, color="annotation", frameon=False)

# %% [markdown]
# ## Spatial domains
#
# The embedding describes the spot, given its surroundings. `tl.domains` describes the *place*: it clusters filtered
# and averaged views of the tissue and takes the consensus. We ask for seven domains because the annotation has seven
# classes. `tl.match_colors` gives each domain the colour of the layer that it overlaps with most.

# %%
sagefm.tl.domains(adata, 7)
sagefm.tl.match_colors(adata, "domain", "annotation")
axes = sagefm.pl.domains(adata, ["annotation", "domain"])

# %% [markdown]
# The adjusted Rand index (ARI) is 1 for the annotation itself and about 0 for random domains. For comparison, the
# same with principal components of the log-normalised counts, which is what you would do without sagefm. For domains
# alone, PCA with `tl.domains` is as good, over many sections
# ([benchmarks](https://sagefm.readthedocs.io/en/latest/benchmarks.html)); in one section, either can be ahead.

# %%
logged = sc.pp.log1p(sc.pp.normalize_total(adata, copy=True), copy=True)
sc.pp.pca(logged, n_comps=20)
adata.obsm["X_pca"] = logged.obsm["X_pca"]
sagefm.tl.domains(adata, 7, use_rep="X_pca", key_added="domain_pca")

known = adata.obs.dropna(subset="annotation")
ari = {
    key: adjusted_rand_score(known["annotation"], known[key])
    for key in ("domain", "domain_pca")
}
pd.Series(ari).round(2)

# %% [markdown]
# ## How many domains?
#
# Without a number, `tl.domains` tries 4 to 10 and takes the most stable one, above the trend that few domains are more
# stable than many. Stable domains come back when the tissue is clustered again without a fifth of its spots. Look at
# the curve before you rely on the number.

# %%
sagefm.tl.domains(adata, key_added="domain_stable")
ax = sagefm.pl.stability(adata, "domain_stable")

# %% [markdown]
# ## What is a domain?
#
# Its genes and its neighbours, with scanpy and squidpy. Genes are compared on log-normalised measured counts, never
# on predicted ones. The p-values of such a comparison mean little, since the domains were found in the same counts
# ([genes of domains](https://sagefm.readthedocs.io/en/latest/domain_genes.html)); read it as a ranking.

# %%
logged.obs["domain"] = adata.obs["domain"]
sc.tl.rank_genes_groups(logged, "domain", method="wilcoxon")
pd.DataFrame(logged.uns["rank_genes_groups"]["names"]).head(5)

# %%
sq.gr.nhood_enrichment(
    adata, cluster_key="domain", show_progress_bar=False, seed=0
)
sq.pl.nhood_enrichment(adata, cluster_key="domain", figsize=(3, 3))

# %% [markdown]
# ## What next
#
# - [Recovering genes](https://sagefm.readthedocs.io/en/latest/tutorials/recovering_genes.html): masked, missing and
#   denoised genes, and whether the model knows your tissue at all
# - [Patients and annotation](https://sagefm.readthedocs.io/en/latest/tutorials/patients_and_annotation.html): several
#   sections at once, and labels for one that has none
# - [Fine tuning and query
#   mapping](https://sagefm.readthedocs.io/en/latest/tutorials/fine_tuning_and_query_mapping.html): `model.train()` on
#   your section, in a minute
# - Domains about as narrow as a spot, such as thin layers on coarse arrays, can be lost: `smooth=0` clusters single
#   spots.
