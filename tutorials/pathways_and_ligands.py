# %% [markdown]
# # Pathways and ligands
#
# [Download this notebook](https://raw.githubusercontent.com/scverse-sagefm/sagefm/main/tutorials/pathways_and_ligands.ipynb)
# or [open it in Colab](https://colab.research.google.com/github/scverse-sagefm/sagefm/blob/main/tutorials/pathways_and_ligands.ipynb).
#
# If a regulator were higher in a spot, or a ligand in its neighbours, what would the model predict for the genes that
# respond to it? The section is F1 of [Andersson et al. (2021)](https://doi.org/10.1038/s41467-021-26271-2), a
# HER2-positive breast tumour on a legacy Spatial Transcriptomics array; the packaged weights have not seen this
# patient.
#
# **The answer is an association.** The model has seen tissue as it is. Genes that share a tissue move together in it,
# whether or not one acts on the other, and nothing here proves an effect or its direction ([results and
# limits](https://sagefm.readthedocs.io/en/latest/perturbation.html)).

# %% tags=["hide-input"]
# In Colab: %pip install git+https://github.com/scverse-sagefm/sagefm
# and, for the two resources: %pip install liana decoupler
import os
from pathlib import Path

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
adata = her2st("F1")
model = sagefm.SAGEFM.from_pretrained("human-mini", adata)

# %% [markdown]
# ## Pathways
#
# The effect on a single target is small; that on a set of known targets can be compared with chance. PROGENy lists
# the genes that respond to each of 14 pathways, as decoupler returns them.

# %%
progeny = DATA / "resources" / "pathways" / "progeny_human.csv"
if progeny.exists():
    net = pd.read_csv(progeny)
else:
    import decoupler

    net = decoupler.op.progeny(organism="human")
net.head(3)

# %% [markdown]
# For each pathway, its regulator (by default the ligand, receptor or transcription factor that it is named after) is
# set from its lowest to its highest value in the spot itself, and the targets are predicted while they are masked.

# %%
response = model.get_pathway_response(net)
regulators = response["source"].map(response.attrs["regulators"])
response.insert(1, "regulator", regulators.str.join(", "))
columns = ["source", "regulator", "auroc", "sign_agreement"]
columns += ["control_sign_agreement", "p", "q"]
response[columns].sort_values("p").round(3)

# %% [markdown]
# - `auroc`: do the targets respond more than matched genes, in the expected direction? 0.5 is chance.
# - `sign_agreement` must be compared with `control_sign_agreement`. Most genes respond to most regulators with the
#   same sign, so that a high share of right signs alone says little.
# - `p` ranks the pathway's regulator among random genes of similar expression, on the same targets. Since the targets
#   of a pathway are expressed together, any gene moves them together; this test takes that into account. `q` is
#   corrected for the number of pathways.

# %%
ranked = response.sort_values("auroc")
ax = ranked.plot.barh(
    x="source",
    y="auroc",
    legend=False,
    color="#0072B2",
    figsize=(4, 3.5),
    xlim=(0.3, 1),
)
ax.axvline(0.5, color="0.5", linewidth=1)
labels = ax.set(xlabel="AUROC, targets against matched genes", ylabel="")

# %% [markdown]
# Where the AUROC is below the line, the model does not know the pathway in this tissue, and its answer should not be
# used.
#
# ## Where in the tissue?
#
# The pathway with the smallest p, and the target that leads its response: the effect in each spot.

# %%
best = response.sort_values("p").iloc[0]
regulator, target = (
    best["regulator"],
    best["leading_targets"].split(", ")[0],
)
dose = model.get_dose_response(regulator, target, where="self")
ax = sagefm.pl.effect_map(
    adata, dose, label=f"effect of {regulator} on {target} (log1p)"
)

# %% [markdown]
# The model is close to linear, so the effect differs little between spots: such a map does not say where the pathway
# is active. If it shows the domains and nothing else, the effect is probably that of the domain.
#
# ## Ligands and receptors
#
# Ligands act on their neighbours, so here the ligand is set in the neighbours of the spot, and the receptor is
# predicted in the spot. The pairs are LIANA's consensus; the screen below takes the first 300 of those that the
# section measures well.

# %%
resource = DATA / "resources" / "liana" / "omni_resource.csv"
if resource.exists():
    pairs = pd.read_csv(resource).query("resource == 'consensus'")
    pairs = pairs[["source_genesymbol", "target_genesymbol"]].set_axis(
        ["ligand", "receptor"], axis=1
    )
else:
    import liana

    pairs = liana.rs.select_resource("consensus")
expressed = adata.var_names[(adata.to_df() > 0).mean() > 0.1]
measured = pairs["ligand"].isin(expressed) & pairs["receptor"].isin(
    expressed
)
screen = sagefm.tl.ligand_receptor_screen(model, pairs[measured].head(300))
ax = sagefm.pl.perturbation_dots(screen)

# %% [markdown]
# `q` compares a pair with random genes that match the ligand and the receptor. Known pairs are not expected to stand
# out by much: over many sections they are barely distinguishable from random ones with this model. So do not read the
# top of the list as active signalling, and above all do not split the pairs into small tables until something is
# significant. `neighbor_correlation` is the plain correlation of the two genes across neighbouring spots, for
# comparison:

# %%
screen.sort_values("p")[
    ["source", "target", "scaled_effect", "neighbor_correlation", "p", "q"]
].head(5).round(4)

# %% [markdown]
# ## What does a prediction rest on?
#
# Which genes does the model use to predict a gene, in the spot and in its neighbours?

# %%
ax = sagefm.pl.influence_bars(model.get_gene_influence("CD74"), n_genes=10)

# %% [markdown]
# These are genes that vary with the target in tissue: often those of the same cell type, and not those that regulate
# it.
#
# ## What could go wrong
#
# - A model that does not beat the mean of the neighbours in your section ([recovered
#   genes](https://sagefm.readthedocs.io/en/latest/tutorials/recovering_genes.html)) has nothing to say about
#   perturbations in it.
# - By default, levels reach from the lowest to the highest value in any spot, which may be an outlier:
#   `levels={"percentile": [5, 95]}`.
# - Sets of your own are a dict: `model.get_pathway_response({"my genes": [...]}, regulators={"my genes": "STAT1"})`.
