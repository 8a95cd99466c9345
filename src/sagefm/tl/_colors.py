"""Colours of categories, in `uns[f"{key}_colors"]`, where scanpy and squidpy look for them."""

from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from anndata import AnnData
from matplotlib.colors import is_color_like, to_hex
from scanpy.plotting.palettes import default_20, default_28, default_102
from scipy.optimize import linear_sum_assignment

from sagefm.data import obs_column


def default_colors(n: int) -> list[str]:
    """Return the colours that scanpy would give `n` categories, as text: others cannot be mixed in one column."""
    cycle = mpl.rcParams["axes.prop_cycle"].by_key().get("color", [])
    palettes = (cycle, default_20, default_28, default_102, ["grey"] * n)
    return [to_hex(color) for color in next(palette for palette in palettes if len(palette) >= n)[:n]]


def colors_of(adata: AnnData, key: str) -> dict[str, str]:
    """Return the colour of every category of `obs[key]`: the stored ones if there is one for each, else the default."""
    names = _categories(obs_column(adata, key, "key"))
    stored = [color for color in adata.uns.get(f"{key}_colors", ()) if is_color_like(color)]
    colors = map(to_hex, stored) if len(stored) == len(names) else default_colors(len(names))
    return dict(zip(names, colors, strict=True))


def _categories(column: pd.Series) -> list[str]:
    """Return the names of categories in their order; those of text and numbers are sorted as text."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.categories.astype(str).tolist()
    return sorted(set(column.dropna().astype(str)))


def write_colors(adata: AnnData, key: str, given: Mapping[str, str] | None = None) -> None:
    """Write the colours of the categorical `obs[key]`: those `given` by name, and unused default colours for others."""
    names, given = adata.obs[key].cat.categories.astype(str), dict(given or {})
    unused = [color for color in default_colors(len(names) + len(given)) if color not in given.values()]
    given |= dict(zip([name for name in names if name not in given], unused, strict=False))
    adata.uns[f"{key}_colors"] = [given.get(name, to_hex("grey")) for name in names]


def match_colors(adata: AnnData, key: str, reference: str) -> None:
    """Give each category of a column the colour of the category of another column that it overlaps with most.

    Names of domains mean nothing, so their colours differ from those of an annotation by chance. Here each domain is
    paired with at most one category of the annotation, so that as many spots as possible have the same colour in both
    [#kuhn]_. Domains without a partner get free colours.

    Parameters
    ----------
    adata
        Spots with both columns.
    key
        Categorical column of `obs` whose colours are changed, in `uns[f"{key}_colors"]`.
    reference
        Categorical column of `obs` whose colours are taken from `uns[f"{reference}_colors"]`, or stored there if it has
        none.

    Raises
    ------
    KeyError
        If a column does not exist; the message lists those that do.

    References
    ----------
    .. [#kuhn] H. W. Kuhn, "The Hungarian method for the assignment problem", Naval Research Logistics 2 (1955); here as
       implemented in :func:`scipy.optimize.linear_sum_assignment`.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
    >>> adata.obs["domain"] = adata.obs["annotation"].astype(str).map(lambda name: name[::-1]).astype("category")
    >>> sagefm.tl.match_colors(adata, "domain", "annotation")
    >>> sorted(adata.uns["domain_colors"]) == sorted(adata.uns["annotation_colors"])
    True
    """
    colors = colors_of(adata, reference)
    labels = pd.DataFrame({name: obs_column(adata, name, "key").astype(object) for name in (key, reference)})
    labels = labels.dropna().astype(str)
    overlap = pd.crosstab(labels[key], labels[reference])
    rows, partners = linear_sum_assignment(-overlap.to_numpy())
    adata.obs[key] = adata.obs[key].astype("category")
    adata.uns[f"{reference}_colors"] = list(colors.values())
    given = {overlap.index[row]: colors[overlap.columns[partner]] for row, partner in zip(rows, partners, strict=True)}
    write_colors(adata, key, given)
