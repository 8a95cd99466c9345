# %% [markdown]
# # Fine-tuning and query mapping
#
# [Download this notebook](https://raw.githubusercontent.com/scverse-sagefm/sagefm/main/tutorials/fine_tuning_and_query_mapping.ipynb)
# or [open it in Colab](https://colab.research.google.com/github/scverse-sagefm/sagefm/blob/main/tutorials/fine_tuning_and_query_mapping.ipynb).
#
# An annotated section is the reference, and a new one arrives: it is embedded by the same weights and gets the labels
# of the reference. Then the weights are trained further on the new section, to see what that gains. The two are
# sections 151673 and 151674 of [Maynard et al. (2021)](https://doi.org/10.1038/s41593-020-00787-0): human cortex on
# Visium, with six layers and white matter annotated by experts. They are neighbouring sections of one donor, so this
# is the easiest case.

# %% tags=["hide-input"]
# In Colab: %pip install git+https://github.com/scverse-sagefm/sagefm
import os
from pathlib import Path

import pandas as pd
import pooch
import scanpy as sc
import scvi

import sagefm

scvi.settings.seed = 0
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
reference, query = cortex("151673"), cortex("151674")
reference.shape, query.shape

# %% [markdown]
# The sections were filtered differently and do not have the same genes. That does not matter: genes are matched by
# name, and each section is embedded on its own.
#
# ## Query mapping

# %%
for section in (reference, query):
    sagefm.SAGEFM.from_pretrained(
        "human-mini", section
    ).get_latent_representation()

truth = query.obs.pop("annotation")  # set aside until the end
report = sagefm.tl.map_query(query, reference, "annotation", threshold=0.5)
print(report)

# %% [markdown]
# The report is about the reference alone: parts of it were left out and labelled by the rest. With references of
# several patients, pass `group_key="patient"`: one patient is left out at a time, which is what a new patient means.
# Without it, as here, the scores hold for the same donor and are too high for another one.

# %%
query.obs["expert"] = truth
query.obs["predicted"] = pd.Categorical(
    query.obs["annotation_predicted"], truth.cat.categories
)
query.obs["confidence"] = query.obs["annotation_predicted_confidence"]
axes = sagefm.pl.domains(query, ["expert", "predicted", "confidence"])

# %%
told = query.obs.dropna(subset=["expert", "predicted"])
right = told["expert"].astype(str) == told["predicted"].astype(str)
scores = {
    "share labelled": len(told) / truth.notna().sum(),
    "accuracy on those": right.mean(),
}
pd.Series(scores).round(2)

# %%
pd.crosstab(told["expert"].astype(str), told["predicted"].astype(str))

# %% [markdown]
# Errors between adjacent layers are to be expected: the borders of the experts are drawn by eye, and a spot of 55 µm
# on a border has cells of both. Across donors and tissues, expect less ([measured over six
# patients](https://sagefm.readthedocs.io/en/latest/query_mapping.html)).
#
# ## Fine-tuning
#
# `train()` continues from the packaged weights. It holds three blocks of the tissue out, stops when their prediction
# does not improve any more, and keeps the weights of the best epoch, so that at worst nothing changes.

# %%
tuned = sagefm.SAGEFM.from_pretrained("human-mini", query)
tuned.train(enable_progress_bar=False)
ax = sagefm.pl.history(tuned)

# %% [markdown]
# What did it gain? Compare both on the blocks that were held out. `r` is the mean correlation of predicted with
# measured values over the 500 most expressed genes, and `r_max` its noise ceiling.

# %%
before = sagefm.SAGEFM.from_pretrained("human-mini", query.copy())
held_out = tuned.validation_indices
tables = {"packaged weights": before, "fine-tuned": tuned}
totals = {
    name: model.get_masked_recovery(indices=held_out).attrs
    for name, model in tables.items()
}
columns = ["top500_r", "top500_r_neighbors", "top500_r_max"]
pd.DataFrame(totals).loc[columns].T.astype(float).round(3)

# %% [markdown]
# Whole-transcriptome human tissue gains little, because the packaged weights know it; a panel, an unusual tissue or
# many sections of your own gain more ([eight sections
# compared](https://sagefm.readthedocs.io/en/latest/pretraining.html)).
#
# **After fine-tuning, the latent space is another one.** Query and reference are comparable only if both are embedded
# by the same weights: use the packaged weights for query mapping, or embed the reference again with the new ones.
#
# ## Keep the weights

# %%
tuned.save_pretrained("tuned_weights", overwrite=True)
again = sagefm.SAGEFM.from_pretrained("tuned_weights", cortex("151673"))
again.get_latent_representation().shape

# %% [markdown]
# The folder holds a safetensors file and a JSON card. Loading it runs no code, so it can be shared.
#
# ## What could go wrong
#
# - Tissue that the reference lacks is labelled as what is most similar. A low confidence is the only hint.
# - Domains and labels of the same tissue by two weights differ somewhat, so report which weights were used.
# - To compare two models, score both on the same held-out spots, as above. Scores on spots that a model was trained
#   on are too high.
