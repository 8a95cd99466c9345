"""Influence: which genes, in a spot and in its neighbours, a prediction depends on."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from sagefm._errors import refuse_unknown
from sagefm.data import Spots, checked_rows, chunks, group_spots, positions_of
from sagefm.model._base import SpotModel, require_training
from sagefm.module import MaskedCenterModule, OnePass, checked_batch_size

_COLUMNS = ["center", "neighbors", "center_size", "neighbors_size"]


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

        The attribution of a gene is its value in the network's input times the gradient of the prediction with respect
        to that value. The gradient is taken at the data (`"gradient"`, gradient times input), or averaged along the
        straight line from a baseline to the data (`"integrated"`, integrated gradients [#axiomatic]_). Integrated
        attributions add up to the prediction minus the prediction for the baseline. The baseline is an input of zeros:
        with `scale_genes` every gene at its mean in the section, otherwise no counts at all.

        The target is masked in the spot, as in training. Attributions are of the prediction before negative values are
        set to zero, which would conceal the genes that lower it.

        Parameters
        ----------
        targets
            Names of genes of the model.
        method
            `"integrated"` or `"gradient"`, see above.
        n_steps
            Number of points on the line (Gauss-Legendre quadrature), for `"integrated"`.
        groupby
            Column of `obs`. Attributions are averaged over each group of spots instead of over all spots.
        adata
            AnnData with the spots to explain. Defaults to the model's AnnData.
        indices
            Spots to explain, as positions or as a boolean array. Defaults to all.
        batch_size
            Number of spots that are held as dense arrays at one time. Defaults to 512.

        Returns
        -------
        pandas.DataFrame
            One row per target (and group) and gene, sorted by decreasing size within each target (and group), with
            `target`, (`group`), `gene` and, in units of the target's log-normalised expression,

            ``center``, ``neighbors``
                Attribution to the gene in the spot and in its neighbours, averaged over spots.
            ``center_size``, ``neighbors_size``
                Absolute value of the attribution, averaged over spots: in ``center`` and ``neighbors``, positive and
                negative attributions of different spots cancel.

            An isolated spot is its own neighbourhood. ``attrs["totals"]`` is a list with one dict per target (and
            group): the mean `prediction`, the mean prediction for the `baseline`, and `completeness_error`, the
            difference of the two minus the sum of all attributions.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If a target is not a gene of the model, or `groupby` is not a column of `obs`.
        ValueError
            If `method` is not known or `n_steps` is below 1.

        References
        ----------
        .. [#axiomatic] Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, ICML.

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
        places, weights = np.polynomial.legendre.leggauss(n_steps)
        steps = [(1.0, 1.0)] if method == "gradient" else list(zip((places + 1) / 2, weights / 2, strict=True))
        attributions = _Attributions(self.module.eval(), spots, rows, steps, checked_batch_size(batch_size))
        tables, totals = [], []
        for target in positions:
            means, ends = attributions.group_means(int(target), groups)
            for number, name in enumerate(names):
                label = {"target": self.genes[target]} | ({} if groupby is None else {"group": name})
                columns = dict(zip(_COLUMNS, means[:, number], strict=True))
                order = np.argsort(-means[2:, number].max(axis=0), kind="stable")
                tables.append(pd.DataFrame({**label, "gene": self.genes, **columns}).iloc[order])
                prediction, baseline = ends[:, number].tolist()
                error = prediction - baseline - float(means[:2, number].sum())
                totals.append(label | {"prediction": prediction, "baseline": baseline, "completeness_error": error})
        table = pd.concat(tables, ignore_index=True)
        if groupby is not None:
            table["group"] = pd.Categorical(table["group"], categories=names)
        table.attrs.update(method=method, totals=totals)
        return table


class _Attributions(NamedTuple):
    """Attributions of predictions for the spots `rows`.

    `steps` are the points where gradients are taken, on the line from the baseline, 0, to the data, 1, and weights.
    """

    module: MaskedCenterModule
    spots: Spots
    rows: np.ndarray
    steps: Sequence[tuple[float, float]]
    batch_size: int

    def group_means(self, target: int, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means of the four columns, (4, groups, genes), and of prediction and baseline, (2, groups)."""
        means = np.zeros((len(_COLUMNS), len(groups), len(self.spots.genes)), dtype=np.float32)
        ends = np.zeros((2, len(groups)), dtype=np.float32)
        for piece in chunks(np.arange(len(self.rows)), self.batch_size):
            attributions, predicted = self._attribute(self.rows[piece], target)
            means += groups[:, piece] @ np.concatenate([attributions, np.abs(attributions)])
            ends += predicted @ groups[:, piece].T
        return means, ends

    def _attribute(self, rows: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Return attributions to spots and to neighbours, (2, rows, genes), and prediction and baseline, (2, rows)."""
        center, neighbors, n = self._inputs(rows, target)
        gene = torch.tensor([target])
        units = self.spots.units.of(rows, n.device, gene.numpy())

        def predict(hidden: Tensor) -> Tensor:
            return self.module.decode_unrectified(self.module.encoder.after_first_layer(hidden), units, gene)[:, 0]

        first_layer = self.module.encoder.conv1.closed_form
        hidden, baseline = first_layer(center, neighbors, n), first_layer(0 * center, 0 * neighbors, n).detach()
        # The first layer is linear: gradients are averaged over its short output and propagated to its input once.
        gradient = torch.zeros_like(baseline)
        for place, weight in self.steps:
            point = torch.lerp(baseline, hidden.detach(), place).requires_grad_()
            gradient += weight * torch.autograd.grad(predict(point).sum(), point)[0]
        gradients = torch.autograd.grad(hidden, (center, neighbors), gradient)
        attributions = torch.stack([center, neighbors]) * torch.stack(gradients)
        predicted = torch.stack([predict(hidden), predict(baseline)])
        return attributions.detach().cpu().numpy(), predicted.detach().cpu().numpy()

    def _inputs(self, rows: np.ndarray, target: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the network's input for spots and neighbours, (rows, genes), and the number of neighbours."""
        n = torch.from_numpy(self.spots.n_neighbors[rows]).to(self.module.device)
        center = self.spots.inputs(rows, self.spots.units.of(rows)).to(self.module.device)
        center[:, target] = 0
        neighbors = torch.where(n > 0, OnePass(self.module, self.spots).neighborhood_inputs(rows), center)
        return center.requires_grad_(), neighbors.requires_grad_(), n
