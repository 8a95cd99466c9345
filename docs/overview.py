"""Draw the figure of the start page and of the README: `python docs/overview.py` writes docs/images/overview.png."""

from pathlib import Path

import matplotlib.pyplot as plt
import scvi

import sagefm

scvi.settings.seed = 0
adata = sagefm.datasets.simulated_tissue(seed=0)
sagefm.SAGEFM.setup_anndata(adata)
model = sagefm.SAGEFM(adata)
model.train(accelerator="cpu", enable_progress_bar=False)
model.get_latent_representation()
sagefm.tl.domains(adata, 8)
recovery = model.get_masked_recovery()

figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", width_ratios=[1.1, 1.1, 1])
adata.obs["truth"], adata.obs["domains of SAGEFM"] = adata.obs["annotation"], adata.obs["domain"]
sagefm.pl.domains(adata, ["truth", "domains of SAGEFM"], axes=axes[:2])
sagefm.pl.recovery(recovery, ax=axes[2])
figure.savefig(Path(__file__).parent / "images" / "overview.png", dpi=90, bbox_inches="tight")
