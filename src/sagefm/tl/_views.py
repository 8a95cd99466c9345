"""Views of a tissue at several widths, for the consensus of domains."""

import numpy as np
from anndata import AnnData
from sklearn.decomposition import PCA

from sagefm.data import neighbor_mean_operator
from sagefm.tl._expression_axes import expression_axes, expression_of, standardized
from sagefm.tl._filter import names_of, rings_of_embedded
from sagefm.tl._inputs import graph_of_embedded
from sagefm.tl._kriging import filtered_by_section

N_AXES = 8  # of each of the two parts of a view
_N_FILTERED = 40  # principal components of a wide representation that are filtered
_N_EXPRESSION = 30  # principal components of expression that are filtered


def views_of_tissue(
    adata: AnnData,
    values: np.ndarray,
    embedded: np.ndarray,
    *,
    sections: np.ndarray | None,
    neighbors_key: str,
    layer: str | None,
    seed: int,
) -> list[np.ndarray]:
    """Return three views of embedded spots, each (spots, up to 16); without expression at most two, (spots, up to 8).

    Eight components of expression averaged over the neighbourhood, which show broad domains, stand beside eight axes
    that also show narrow ones: of `values` filtered, of `values` averaged, and of expression filtered.
    """
    names, instead = names_of(sections, embedded), ", or use smooth=0"
    graph = graph_of_embedded(adata, embedded, neighbors_key, sections, instead)
    mean = neighbor_mean_operator(graph, with_self=True)
    rings = rings_of_embedded(adata, embedded, neighbors_key, graph)
    axes = PCA(min(_N_FILTERED, *values.shape), random_state=seed).fit_transform(values)
    narrow = [_widest(filtered_by_section(axes, rings, names)[0]), _components(mean @ values, seed)]
    expression = expression_of(adata, layer)
    if expression is None:
        varied = [part for part in narrow if np.ptp(part, axis=0).any()]  # the filter leaves nothing of pure noise
        return [_on_one_scale(part) for part in varied or narrow]
    genes = standardized(expression[embedded], names)
    broad = _on_one_scale(expression_axes(genes, mean, N_AXES, seed))
    unsmoothed = expression_axes(genes, None, _N_EXPRESSION, seed)
    narrow.append(_widest(filtered_by_section(unsmoothed, rings, names)[0]))
    return [np.hstack([_on_one_scale(part), broad]) for part in narrow]


def _components(values: np.ndarray, seed: int) -> np.ndarray:
    return PCA(min(N_AXES, *values.shape), random_state=seed).fit_transform(values)


def _widest(axes: np.ndarray) -> np.ndarray:
    """Return the axes with the most variance, without those that are constant unless all are."""
    variance = axes.var(axis=0)
    order = np.argsort(-variance, kind="stable")[:N_AXES]
    return axes[:, order[variance[order] >= 1e-9 * variance.max()]]


def _on_one_scale(part: np.ndarray) -> np.ndarray:
    """Divide by the largest deviation of an axis: the mixture's regularisation depends on the scale."""
    return part / max(part.std(axis=0).max(), 1e-12)
