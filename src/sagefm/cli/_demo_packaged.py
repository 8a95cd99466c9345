"""The packaged weights where a tissue is simulated: they know no invented genes, so counts of theirs are drawn."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from rich.console import Console
from sklearn.metrics import adjusted_rand_score

from sagefm import tl
from sagefm.cli._demo_report import DOMAIN_KEY, TRUTH_KEY, heading, say
from sagefm.data import section_units
from sagefm.model import SAGEFM, TOP

DEPTH = 5_000  # counts of a spot
SPREAD = 1.0  # of the latent numbers of domains, and of spots about their domain: about that of real sections


def show_packaged(tissue: AnnData, weights: str, seed: int, console: Console) -> None:
    """Load weights, embed a section drawn from them zero-shot, and tell how that went."""
    heading(console, f"{weights}, the weights that come with sagefm, zero-shot")
    section = drawn_section(SAGEFM.from_pretrained(weights), tissue, seed)
    start = time.perf_counter()
    model = SAGEFM.from_pretrained(weights, section)
    model.get_latent_representation()
    seconds = time.perf_counter() - start
    truth = section.obs[TRUTH_KEY]
    tl.domains(section, truth.nunique(), seed=seed, key_added=DOMAIN_KEY)
    ari = adjusted_rand_score(truth, section.obs[DOMAIN_KEY])
    totals = model.get_masked_recovery(seed=seed).attrs
    r, r_neighbors = totals[f"top{TOP}_r"], totals[f"top{TOP}_r_neighbors"]
    say(
        console,
        "They know human genes, not invented ones, so this section is drawn from them: "
        f"{section.n_vars:,} genes on the same {section.n_obs:,} spots. Loaded and embedded in {seconds:.1f} s; mean "
        f"r, top {TOP}, {r:.3f} (mean of the neighbours {r_neighbors:.3f}); {truth.nunique()} domains, ARI {ari:.3f}. "
        "It shows that they run, not how well they do on tissue: for that, name a file of yours.",
    )


@torch.inference_mode()
def drawn_section(model: SAGEFM, tissue: AnnData, seed: int) -> AnnData:
    """Draw counts of the model's genes for the spots of a tissue: every domain is a place in the latent space."""
    rng, domain = np.random.default_rng(seed), tissue.obs[TRUTH_KEY].astype("category").cat.codes.to_numpy()
    n_latent = model.module.decoder.in_features
    latent = rng.normal(scale=SPREAD, size=(domain.max() + 1, n_latent))[domain]
    latent += rng.normal(scale=SPREAD, size=latent.shape)
    first = np.zeros(1, dtype=int)
    units = section_units(model.module.normalization, first, []).of(first)  # of a section without spots: as in training
    counts = []
    for part in torch.from_numpy(latent).float().split(256):
        rate = torch.expm1(model.module.decode(part, units)).double().numpy()
        counts.append(sp.csr_matrix(rng.poisson(DEPTH * rate / rate.sum(axis=1, keepdims=True)), dtype=np.float32))
    obs, var = tissue.obs[[TRUTH_KEY]], pd.DataFrame(index=model.genes)
    return AnnData(sp.vstack(counts, format="csr"), obs=obs, var=var, obsm={"spatial": tissue.obsm["spatial"]})
