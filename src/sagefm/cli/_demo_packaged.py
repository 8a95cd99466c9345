"""The packaged weights on simulated tissue: they know human genes only, so counts of these genes are simulated."""

import time

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from rich.console import Console
from sklearn.metrics import adjusted_rand_score

from sagefm import tl
from sagefm.cli._demo_report import DOMAIN_KEY, TRUTH_KEY
from sagefm.cli._output import heading, say
from sagefm.data import section_units
from sagefm.model import SAGEFM, TOP

DEPTH = 5_000  # counts per spot
SPREAD = 1.0  # latent standard deviation between domains, and between spots of a domain: about that of real sections


def show_packaged(tissue: AnnData, weights: str, seed: int, console: Console) -> None:
    """Load weights, embed a section simulated from them zero-shot, and print the scores."""
    heading(console, f"{weights}, the weights that come with sagefm, zero-shot")
    section = simulated_from(SAGEFM.from_pretrained(weights), tissue, seed)
    start = time.perf_counter()
    model = SAGEFM.from_pretrained(weights, section)
    model.get_latent_representation()
    seconds = time.perf_counter() - start
    truth = section.obs[TRUTH_KEY]
    tl.domains(section, truth.nunique(), seed=seed, key_added=DOMAIN_KEY)
    ari = adjusted_rand_score(truth, section.obs[DOMAIN_KEY])
    totals = model.get_masked_recovery(seed=seed).attrs
    say(
        console,
        "They know human genes, and not those of the simulated tissue, so this section is simulated from the weights: "
        f"{section.n_vars:,} genes on the same {section.n_obs:,} spots. Loaded and embedded in {seconds:.1f} s; mean "
        f"r, top {TOP}, {totals[f'top{TOP}_r']:.3f} (mean of the neighbours {totals[f'top{TOP}_r_neighbors']:.3f}, "
        f"noise ceiling {totals[f'top{TOP}_r_max']:.3f}); {truth.nunique()} domains, ARI {ari:.3f}. This shows that "
        "they run, not how well they perform on tissue: for that, pass a file of your own.",
    )


@torch.inference_mode()
def simulated_from(model: SAGEFM, tissue: AnnData, seed: int) -> AnnData:
    """Draw counts of the model's genes for the spots of a tissue: each domain is a point in the latent space."""
    rng = np.random.default_rng(seed)
    domain = tissue.obs[TRUTH_KEY].astype("category").cat.codes.to_numpy()
    latent = rng.normal(scale=SPREAD, size=(domain.max() + 1, model.module.decoder.in_features))[domain]
    latent += rng.normal(scale=SPREAD, size=latent.shape)
    first = np.zeros(1, dtype=int)
    units = section_units(model.module.normalization, first, []).of(first)  # those of training, as there are no spots
    counts = []
    for part in torch.from_numpy(latent).float().split(256):
        rate = torch.expm1(model.module.decode(part, units)).double().numpy()
        counts.append(sp.csr_matrix(rng.poisson(DEPTH * rate / rate.sum(axis=1, keepdims=True)), dtype=np.float32))
    obs, var = tissue.obs[[TRUTH_KEY]], pd.DataFrame(index=model.genes)
    return AnnData(sp.vstack(counts, format="csr"), obs=obs, var=var, obsm={"spatial": tissue.obsm["spatial"]})
