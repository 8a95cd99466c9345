# %% [markdown]
# # Several patients, and labels for one that has none
#
# [Download this notebook](https://raw.githubusercontent.com/scverse-sagefm/sagefm/main/tutorials/patients_and_annotation.ipynb)
# or [open it in Colab](https://colab.research.google.com/github/scverse-sagefm/sagefm/blob/main/tutorials/patients_and_annotation.ipynb).
#
# Six HER2-positive breast tumours of [Andersson et al. (2021)](https://doi.org/10.1038/s41467-021-26271-2), one
# section of each, on legacy Spatial Transcriptomics arrays (spots of 100 µm). A pathologist annotated all six. We
# hide the labels of patient F, predict them from the other five, and compare.
#
# Sections A1 to D1 were among those that the packaged weights were trained on (without labels), E1 decided when to
# stop, and F1 was never used: for the weights and for the classifier, F is a new patient.

# %% tags=["hide-input"]
# In Colab: %pip install git+https://github.com/scverse-sagefm/sagefm
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.sparse import csr_matrix

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


# %%
sections = {
    name: her2st(name) for name in ("A1", "B1", "C1", "D1", "E1", "F1")
}
adata = ad.concat(sections, label="sample", index_unique="-")
adata.obs["patient"] = adata.obs["sample"].str[0].astype("category")
truth = (
    adata.obs["annotation"].replace("undetermined", np.nan).astype(object)
)
pd.crosstab(adata.obs["patient"], truth.fillna("none"))

# %% [markdown]
# The table is worth a look before anything else: most of the tissue is invasive cancer, carcinoma in situ is
# annotated in one patient only, and so are the breast glands. What one patient only has cannot be learnt for another.
#
# ## Embed all sections
#
# `sample_key` keeps the sections apart: the neighbour graph joins no two of them, and genes are standardised within
# each of them. The model itself never sees which section a spot comes from.

# %%
model = sagefm.SAGEFM.from_pretrained(
    "human-mini", adata, sample_key="sample"
)
model.get_latent_representation()
sc.pp.neighbors(adata, use_rep="X_sagefm")
sc.tl.umap(adata)
adata.obs["label"] = truth.astype("category")
sc.pl.umap(adata, color=["patient", "label"], frameon=False, wspace=0.3)

# %% [markdown]
# Spots of different patients should mix where the tissue is the same, and tumours may well differ. Standardising the
# embedding within sections (`scale_by="sample"`) mixes them more, but hides differences in what the sections contain;
# [integrating patients](https://sagefm.readthedocs.io/en/latest/integrating_patients.html) has what Harmony does
# here.
#
# ## Domains with the same meaning in all sections
#
# All sections are clustered together, so that domain 1 is the same tissue in each of them.

# %%
sagefm.tl.domains(adata, 5, sample_key="sample")
axes = sagefm.pl.domains(adata, ["label", "domain"], sample_key="sample")

# %%
pd.crosstab(adata.obs["domain"], adata.obs["sample"])

# %% [markdown]
# A domain that covers one section and no other is either a tissue that only this patient has, or a section effect. In
# tumours it is often both, and the embedding cannot tell you which.
#
# ## Label a patient
#
# Labels of patient F are set aside. `tl.annotate` trains a regularised logistic regression on the labelled spots,
# after cross-validating it: with `group_key="patient"`, each labelled patient in turn is predicted from the others.
# That is what will happen to patient F, so it is the score to look at.

# %%
new = (adata.obs["patient"] == "F").to_numpy()
adata.obs["annotation"] = truth.mask(new).astype("category")
report = sagefm.tl.annotate(
    adata, "annotation", group_key="patient", threshold=0.5
)
print(report)
report.per_class.round(2)

# %% [markdown]
# `majority` is the accuracy of calling everything by the most common label. `per_class` shows where the classifier is
# good and where it has nothing to learn from (`n_groups` is the number of patients with the class). Which classes
# does it confuse?

# %%
ax = sagefm.pl.confusion(report)

# %% [markdown]
# ## Was it right?
#
# In real life you stop here. Spots below the threshold get no label and are pale; they lie mostly at borders.

# %%
query = adata[new].copy()
query.obs["pathologist"] = query.obs["label"]
query.uns["pathologist_colors"] = adata.uns["label_colors"]
query.obs["predicted"] = query.obs["annotation_predicted"]
sagefm.tl.match_colors(query, "predicted", "pathologist")
query.obs["confidence"] = query.obs["annotation_predicted_confidence"]
axes = sagefm.pl.domains(query, ["pathologist", "predicted", "confidence"])

# %%
told = query.obs.dropna(subset=["pathologist", "predicted"])
right = told["pathologist"].astype(str) == told["predicted"].astype(str)
pd.Series(
    {
        "share labelled": len(told)
        / query.obs["pathologist"].notna().sum(),
        "accuracy on those": right.mean(),
        "balanced accuracy": right.groupby(told["pathologist"].astype(str))
        .mean()
        .mean(),
        "always the most common label": query.obs["pathologist"]
        .value_counts(normalize=True)
        .max(),
    }
).round(2)

# %%
ax = sagefm.pl.confusion(query, "pathologist", "predicted")

# %% [markdown]
# ## What could go wrong
#
# - Most spots of this patient are invasive cancer, so compare the accuracy with the last line, and look at the
#   balanced accuracy. One patient is one data point: over six patients, see [query
#   mapping](https://sagefm.readthedocs.io/en/latest/query_mapping.html).
# - A class that the reference lacks gets the label of what is most similar, sometimes with high confidence.
# - Mark unlabelled spots by missing values. A class called "undetermined" would be learnt as if it were a tissue,
#   which is why it was removed above.
# - The confidence is a probability only as far as `report.calibration_error` is small; above 0.1, use it as a rank.
# - With files of their own, reference and query need no common AnnData: `tl.map_query`.
