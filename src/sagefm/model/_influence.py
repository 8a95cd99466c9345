"""Influence: which genes, in the spot and in its neighbours, a prediction rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from sagefm._errors import refuse_unknown
from sagefm.data import Spots, Units, checked_rows, group_spots, positions_of
from sagefm.model._base import SpotModel, require_training
from sagefm.module import MaskedCenterModule, checked_batch_size


class InfluenceMixin(SpotModel):
    """`get_gene_influence`, for :class:`sagefm.SAGEFM`."""

    def get_gene_influence(
        self,
        targets: Sequence[str] | str,
        *,
        method: Literal["gradient", "integrated"] = "integrated",
        n_steps: int = 64,
        groupby: str | None = None,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Attribute predictions of target genes to the genes of the spot and of its neighbours.

        An attribution is what the network reads of a gene times how steeply the prediction rises with it: at the data
        (`"gradient"`, gradient times input), or on average over the straight way from the baseline to the data
        (`"integrated"`, integrated gradients [1]_), which add up to the prediction less that for the baseline. The
        baseline is zero input: with `scale_genes`, every gene at its mean in the section; without, no counts at all.
        The target is hidden from the spot, as in training. The prediction is taken before it is rectified at zero,
        which would hide what holds it down.

        Parameters
        ----------
        targets
            Names of genes the model knows.
        method
            `"integrated"` or `"gradient"`.
        n_steps
            Points on the way (Gauss-Legendre), for `"integrated"`.
        groupby
            Column of `obs`; attributions are then averaged over each group of spots.
        adata
            Spots to explain; the AnnData of the model by default.
        indices
            Spots to explain, as positions or as a boolean array; all by default.
        batch_size
            Number of spots that are dense at one time; 512 by default.

        Returns
        -------
        pandas.DataFrame
            One row a target, (group) and gene, the largest first within each, with `target`, (`group`), `gene` and, in
            log-normalised expression of the target,

            ``center``, ``neighbors``
                Mean attribution over the spots to the gene in the spot and in its neighbours.
            ``center_size``, ``neighbors_size``
                Mean of the attribution's size: over all spots gains and losses cancel, here they do not.

            An isolated spot stands in for its neighbours. ``attrs["totals"]`` has a dict for each target (and group)
            with the mean `prediction`, that for the `baseline`, and `completeness_error`: their difference less the
            sum of all attributions.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If the model does not know a gene, or `obs` has no such column.
        ValueError
            If `method` is not known or `n_steps` is below 1.

        References
        ----------
        .. [1] Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, ICML.

        Examples
        --------
        >>> influence = model.get_gene_influence("TGT1")
        >>> list(influence.columns)
        ['target', 'gene', 'center', 'neighbors', 'center_size', 'neighbors_size']
        """
        require_training(self)
        refuse_unknown("method", method, ("gradient", "integrated"))
        if n_steps < 1:
            raise ValueError(f"n_steps={n_steps} must be 1 or more.")
        positions = positions_of(targets, self.genes)
        section, spots = self._read(adata)
        rows, names, groups = group_spots(checked_rows(indices, spots.n_obs), section, groupby)
        explained = _Explained(self.module, spots, rows, batch_size)
        steps = _steps(method, n_steps)
        tables, totals = [], []
        for target in positions:
            found = explained.attributions(int(target), steps, groups)
            for number, name in enumerate(names):
                label = {"target": self.genes[target]} | ({} if groupby is None else {"group": name})
                columns = {key: found[key][number] for key in (*_PARTS, *_SIZES)}
                tables.append(_sorted(pd.DataFrame({**label, "gene": self.genes, **columns})))
                totals.append(label | {key: float(found[key][number]) for key in _TOTALS})
        table = pd.concat(tables, ignore_index=True)
        if groupby is not None:
            table["group"] = pd.Categorical(table["group"], categories=names)
        table.attrs.update(method=method, totals=totals)
        return table


_PARTS, _SIZES = ("center", "neighbors"), ("center_size", "neighbors_size")
_TOTALS = ("prediction", "baseline", "completeness_error")


def _steps(method: str, n_steps: int) -> np.ndarray:
    """Return where on the way from nothing, 0, to the data, 1, gradients are taken, and their weights, (2, steps)."""
    if method == "gradient":
        return np.ones((2, 1))
    places, weights = np.polynomial.legendre.leggauss(n_steps)
    return np.stack([(places + 1) / 2, weights / 2])


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    size = table[list(_SIZES)].max(axis=1)
    return table.iloc[np.argsort(-size.to_numpy(), kind="stable")]


class _Explained:
    """Attributions for some spots of one AnnData."""

    def __init__(self, module: MaskedCenterModule, spots: Spots, rows: np.ndarray, batch_size: int | None) -> None:
        self._module, self._spots, self._rows = module.eval(), spots, rows
        self._batch_size = checked_batch_size(batch_size)

    def attributions(self, target: int, steps: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
        """Return means and mean sizes of the attributions of one target, (groups, genes), and totals, (groups,)."""
        found: dict[str, Any] = dict.fromkeys((*_PARTS, *_SIZES, "prediction", "baseline"), 0)
        for start in range(0, len(self._rows), self._batch_size):
            piece = slice(start, start + self._batch_size)
            for key, values in self._of_piece(self._rows[piece], target, steps).items():
                found[key] = found[key] + groups[:, piece] @ values
        gained = found["center"].sum(axis=1) + found["neighbors"].sum(axis=1)
        return found | {"completeness_error": found["prediction"] - found["baseline"] - gained}

    def _of_piece(self, rows: np.ndarray, target: int, steps: np.ndarray) -> dict[str, np.ndarray]:
        inputs, n = self._inputs(rows, target)
        first = self._module.encoder.conv1.closed_form
        read = [values.requires_grad_() for values in inputs]
        hidden = first(*read, n)
        with torch.no_grad():
            start = first(*(torch.zeros_like(values) for values in inputs), n)
        gene = np.array([target])
        predict = partial(self._predict, gene=torch.from_numpy(gene), units=self._spots.units.of(rows, n.device, gene))
        # The first layer is linear: gradients are averaged over its output, which is short, and taken back once.
        slopes = _mean_gradient(predict, start, hidden.detach(), steps)
        gradients = torch.autograd.grad(hidden, read, slopes)
        parts = [(values * slope).detach().cpu().numpy() for values, slope in zip(inputs, gradients, strict=True)]
        with torch.no_grad():
            ends = {"prediction": predict(hidden).cpu().numpy(), "baseline": predict(start).cpu().numpy()}
        sizes = (np.abs(part) for part in parts)
        return dict(zip((*_PARTS, *_SIZES), (*parts, *sizes), strict=True)) | ends

    def _inputs(self, rows: np.ndarray, target: int) -> tuple[list[Tensor], Tensor]:
        """Return what the network reads of the spots and of their neighbours, (rows, genes), and how many these are."""
        units, masked = self._spots.units.of(rows), torch.from_numpy(self._spots.masked)
        center = self._spots.inputs(rows, units)
        center[:, target] = 0
        n = torch.from_numpy(self._spots.n_neighbors[rows])
        neighbors = units.standardize(torch.from_numpy(self._spots.neighborhood_means(rows)), masked)
        neighbors = torch.where(n > 0, neighbors, center)
        return [values.to(self._module.device) for values in (center, neighbors)], n.to(self._module.device)

    def _predict(self, hidden: Tensor, gene: Tensor, units: Units) -> Tensor:
        """Predict one gene before it is rectified, (rows,)."""
        return self._module.decode_unrectified(self._module.encoder.after_first_layer(hidden), units, gene)[:, 0]


def _mean_gradient(predict: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, steps: np.ndarray) -> Tensor:
    """Average the gradient over points on the way from `start` to `end`, (rows, hidden)."""
    total = torch.zeros_like(end)
    for step, weight in steps.T.tolist():
        point = torch.lerp(start, end, step).requires_grad_()
        total += weight * torch.autograd.grad(predict(point).sum(), point)[0]
    return total
