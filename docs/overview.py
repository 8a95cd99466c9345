"""Draw the figure of the start page and of the README: `python docs/overview.py` writes docs/images/overview.png.

It needs section 151674 of human cortex (Maynard et al. 2021) in the folder `SAGEFM_DATA`, `../shared/data` by default.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import scanpy as sc

import sagefm

GENE = "PCP4"  # of layer 5
DATA = Path(os.environ.get("SAGEFM_DATA", "../shared/data"))
TITLES = {
    "annotation": "annotated by experts",
    "domain": "domains of sagefm",
    "measured": f"{GENE}, measured",
    "recovered": f"{GENE}, masked and recovered",
}

adata = sc.read_h5ad(DATA / "sections" / "dlpfc_maynard2021__151674.h5ad")
model = sagefm.SAGEFM.from_pretrained("human-mini", adata)
model.get_latent_representation()
sagefm.tl.domains(adata, 7)
sagefm.tl.match_colors(adata, "domain", "annotation")
logged = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=model.target_depth, copy=True), copy=True)
adata.obs["measured"] = logged[:, GENE].to_df()[GENE]
adata.obs["recovered"] = model.impute_masked(genes=[GENE])[GENE]

figure, axes = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained")
sagefm.pl.domains(adata, list(TITLES), axes=axes)
for ax, title in zip(axes, TITLES.values(), strict=True):
    ax.set_title(title)
figure.savefig(Path(__file__).parent / "images" / "overview.png", dpi=90, bbox_inches="tight")
