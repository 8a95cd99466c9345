"""Run scib-metrics on one file: _mixing.py INPUT.h5ad OUTPUT.csv. Needs an environment with scib-metrics."""

import sys
import warnings

import anndata as ad
import scanpy as sc
from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

warnings.simplefilter("ignore")


def main() -> None:
    source, target = sys.argv[1:]
    adata = ad.read_h5ad(source)
    adata.obs = adata.obs.astype("category")
    logged = adata.copy()
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    adata.obsm["X_before"] = sc.pp.pca(logged.X, n_comps=20)
    embeddings = [key for key in adata.obsm if key != "X_before"]
    benchmarker = Benchmarker(
        adata,
        batch_key="batch",
        label_key="label",
        embedding_obsm_keys=embeddings,
        pre_integrated_embedding_obsm_key="X_before",
        bio_conservation_metrics=BioConservation(),
        # kBET per label expects every label in several batches, which is not the case for annotated tissues.
        batch_correction_metrics=BatchCorrection(kbet_per_label=False),
        n_jobs=1,
        progress_bar=False,
    )
    benchmarker.benchmark()
    table = benchmarker.get_results(min_max_scale=False).loc[embeddings].astype(float)
    table.rename_axis("embedding").reset_index().melt("embedding", var_name="metric").to_csv(target, index=False)


if __name__ == "__main__":
    main()
