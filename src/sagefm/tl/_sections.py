"""One embedding per section, pooled over its spots."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
from anndata import AnnData

from sagefm.tl._inputs import groups, representation

Statistic = Literal["mean", "std"]


def section_embedding(
    adata: AnnData,
    *,
    sample_key: str,
    use_rep: str = "X_sagefm",
    statistics: Statistic | Sequence[Statistic] = ("mean",),
) -> pd.DataFrame:
    """Pool the representation of spots over each section.

    Parameters
    ----------
    adata
        Spots with a representation in `obsm`. Spots with NaN in their row are left out.
    sample_key
        Column of `obs` with the section of each spot.
    use_rep
        Key in `obsm` of the representation.
    statistics
        What to pool: `"mean"` over the spots, and `"std"`, their standard deviation, which shows how varied a section
        is.

    Returns
    -------
    pandas.DataFrame
        (sections, statistics x features), sections in alphabetical order, columns `mean_0`, `mean_1` and so on: an `X`
        for scikit-learn. Sections of one patient are not independent samples: cross-validate by patient.

    Raises
    ------
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If a statistic is not known, a spot has no section, or a section has no embedded spot.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=3)
    >>> sc.pp.pca(adata, n_comps=4)
    >>> sagefm.tl.section_embedding(adata, sample_key="sample", use_rep="X_pca", statistics=["mean", "std"]).shape
    (3, 8)
    """
    statistics = [statistics] if isinstance(statistics, str) else statistics
    if not statistics or not set(statistics) <= {"mean", "std"}:
        raise ValueError(f"statistics={statistics!r} must be one or both of 'mean' and 'std'.")
    values, embedded = representation(adata, use_rep)
    sections = groups(adata, sample_key, "sample_key")
    if empty := sorted(set(sections) - set(sections[embedded])):
        raise ValueError(f"Section {empty[0]!r} has no embedded spot: every row of obsm[{use_rep!r}] has NaN there.")
    spots = pd.DataFrame(values[embedded]).groupby(sections[embedded])
    pooled = {"mean": spots.mean(), "std": spots.std(ddof=0)}  # ddof=0, so that a section of one spot has 0, not NaN
    table = pd.concat([pooled[name].add_prefix(f"{name}_") for name in statistics], axis=1)
    return table.rename_axis(sample_key)
