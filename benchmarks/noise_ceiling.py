"""How much of what can be recovered is recovered: packaged weights, the mean of the neighbours and the noise ceiling.

    python benchmarks/noise_ceiling.py [SECTION ...]

Sections are names of files in the folder that the variable SAGEFM_DATA names; mean r of the 500 most expressed genes.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
from _sections import section

import sagefm

SECTIONS = [
    "dlpfc_maynard2021__151674",
    "her2st_andersson2021__F1",
    "her2st_andersson2021__F2",
    "heart_asp2019__5_CN74_E1_HE",
    "tnbc_bassiouni2023__120E",
]


def scores(name: str) -> dict[str, float]:
    """Return the totals of one section, all spots, not fitted and fitted to the section."""
    adata = section(name)
    adata.var_names_make_unique()
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    model = sagefm.SAGEFM.from_pretrained("human-mini", adata)
    alone, fitted = (model.get_masked_recovery(fit_section=fit).attrs for fit in (False, True))
    return {
        "spots": adata.n_obs,
        "neighbours": alone["top500_r_neighbors"],
        "not fitted": alone["top500_r"],
        "fitted": fitted["top500_r"],
        "ceiling": fitted["top500_r_max"],
        "fitted, share of ceiling": fitted["top500_share_of_ceiling"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=SECTIONS)
    warnings.simplefilter("ignore")
    table = pd.DataFrame({name: scores(name) for name in parser.parse_args().sections}).T
    print(table.astype({"spots": int}).to_markdown(floatfmt=".3f"))
