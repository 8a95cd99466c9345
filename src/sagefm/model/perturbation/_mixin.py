"""In-silico perturbation: what happens to a target in a spot when its neighbours make more of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from sagefm._errors import refuse_unknown
from sagefm.data import Spots, checked_rows, group_spots, shares
from sagefm.model._base import SpotModel, require_training
from sagefm.model.perturbation._controls import ControlPool
from sagefm.model.perturbation._counterfactual import Counterfactual, Expression, Readout, Where
from sagefm.model.perturbation._effects import control_spots, effect_table, effects_of, neighbor_correlations, standings
from sagefm.model.perturbation._levels import Levels
from sagefm.model.perturbation._pairs import Pairs

LevelsLike = int | Sequence[float] | Mapping[str, Sequence[float]]


class PerturbationMixin(SpotModel):
    """`perturb` and `get_dose_response`, for :class:`sagefm.SAGEFM`."""

    def perturb(
        self,
        sources: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        *,
        pairs: pd.DataFrame | None = None,
        levels: LevelsLike = 5,
        where: Where = "neighbors",
        n_controls: int = 100,
        groupby: str | None = None,
        mask_targets: bool = True,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Set source genes to several levels and read the predicted target genes.

        The log-scale value of a source is set in the neighbours of every spot (or in the spot), the target is hidden
        from the spot, and the target's prediction is read at each level. Library sizes stay as measured: a source that
        is set higher scales no other gene down. This is what the model expects, not what an experiment would give: the
        model knows associations in space, whatever causes them.

        Parameters
        ----------
        sources, targets
            Names of genes; all combinations are asked, but those of a gene with itself. `"A_B"` is a complex: its
            parts are set together, and read as their mean.
        pairs
            Table with columns `source` and `target`, instead; a pair that stands twice is asked once.
        levels
            A number: so many levels, evenly from each source's minimum to its maximum over all spots. A list: values
            on the log scale, 0 being a knock-out. A dict of one list: `{"fold_change": [1, 0]}`, factors on the
            counts that each spot has; `{"percentile": [5, 95]}`, percentiles of the source over all spots; or
            `{"value": [0, 2]}`, as the list. Effects are differences of the last and the first.
        where
            Set the source in the `"neighbors"`, in the spot (`"self"`), or in `"both"`.
        n_controls
            Number of matched random genes to compare each source and each target with; 0 for no comparison.
        groupby
            Column of `obs`; effects are then averaged over each group of spots. Spots without a group are left out.
        mask_targets
            Whether a target's own count is hidden from the spot, each target on its own.
        adata
            Spots to perturb; the AnnData of the model by default.
        indices
            Spots to predict, as positions or as a boolean array; all by default. Isolated spots have no neighbours to
            perturb and are left out with `where="neighbors"`.
        batch_size
            Number of spots that are dense at one time; 512 by default. It does not change the result.
        seed
            Seed of the control genes.

        Returns
        -------
        pandas.DataFrame
            One row a pair, or a pair and group, with

            ``source``, ``target``, (``group``)
                Who was set, and who was read.
            ``effect``
                Mean over the spots of the prediction at the last level less that at the first, in log-normalised
                expression (natural log).
            ``spread``
                Standard deviation of that difference over the spots; NaN for a single spot.
            ``scaled_effect``
                The effect in standard deviations of the target over all spots.
            ``slope``
                Least-squares slope of the mean prediction on the source's mean level.
            ``monotonicity``
                Spearman correlation of mean prediction and level, from -1 to 1.
            ``reverse_effect``, ``scaled_reverse_effect``
                Effect of the target, set between its own first and last level, on the source.
            ``neighbor_correlation``
                Correlation of the target in the spot with the mean of the source over its neighbours, as measured
                over all spots (with `where="self"`, with the source in the spot): the plain explanation.
            ``control_percentile``
                Share of controls, in percent, whose effect is smaller in size: the same source on matched random
                targets, and matched random sources on the same target, all in standard deviations of the target.
            ``p``, ``q``
                Empirical p-value of the effect among all pairs of control sources and control targets, once what the
                source does to any target and what any source does to the target is taken off; and its
                Benjamini-Hochberg q-value over the table. Pair and controls are compared without hiding targets, on at
                most 512 random spots (in groups: on at least 64 of each, where it has so many).
            ``n_spots``
                Number of spots averaged over.

            A source that does not vary over the section, or that its panel lacks, has no range to move in; its
            effects and p are NaN.
            ``attrs`` holds `levels`, `where`, `n_controls`, `mask_targets` and `seed`.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If the model does not know a gene, or `obs` has no such column.
        ValueError
            If no pair is asked, a source shares a gene with its target, or levels are fewer than two or out of range.

        Warns
        -----
        UserWarning
            If a level is above all measured values of a source.

        Examples
        --------
        >>> table = model.perturb(["LIG1", "LIG2"], "TGT1", n_controls=20)
        >>> table[["source", "target"]].to_numpy().tolist()
        [['LIG1', 'TGT1'], ['LIG2', 'TGT1']]
        """
        require_training(self)
        asked, dosage = Pairs.of(sources, targets, pairs, self.genes), Levels.of(levels)
        _refuse_bad_arguments(where, n_controls)
        section, spots = self._read(adata)
        rows = _perturbable(checked_rows(indices, spots.n_obs), spots, where)
        rows, names, groups = group_spots(rows, section, groupby)
        mean, deviation = spots.gene_moments(np.arange(spots.n_obs))
        pool = ControlPool(mean, deviation, n_controls, seed) if n_controls else None
        deviation = np.where(deviation > 0, deviation, np.nan)  # what does not vary has no unit
        expression = Expression(spots, np.union1d(asked.genes, pool.genes if pool else []).astype(int))
        dosage.warn_of_extrapolation(*_highest(expression, asked))

        screen = Counterfactual(
            self.module, spots, rows, expression, where=where, mask_targets=mask_targets, batch_size=batch_size
        )
        columns = effects_of(screen, asked, dosage, groups, deviation)
        columns["neighbor_correlation"] = neighbor_correlations(spots, expression, asked, rows, groups, where)
        if pool is not None:
            sample = control_spots(groups, seed)
            few = shares(groups[:, sample] > 0)
            still = np.isnan(columns["effect"])
            columns |= standings(screen.unmasked(sample), asked, dosage, few, deviation, pool)
            columns["control_percentile"][still] = columns["p"][still] = np.nan
        table = effect_table(asked, names, groupby, columns, (groups > 0).sum(axis=1))
        table.attrs.update(levels=levels, where=where, n_controls=n_controls, mask_targets=mask_targets, seed=seed)
        return table

    def get_dose_response(
        self,
        source: str,
        target: str,
        *,
        levels: LevelsLike = 5,
        where: Where = "neighbors",
        mask_targets: bool = True,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Return the predicted target in every spot at every level of a source.

        Parameters
        ----------
        source, target
            Names of two genes, or of complexes `"A_B"`.
        levels, where, mask_targets, adata, indices, batch_size
            As in :meth:`perturb`.

        Returns
        -------
        pandas.DataFrame
            (spots, levels), log-normalised expression. Columns are the source's mean level where it is set, also in
            log-normalised expression; the last less the first is the effect in each spot. Isolated spots are NaN with
            `where="neighbors"`.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If the model does not know a gene.
        ValueError
            If the source shares a gene with the target, or levels are fewer than two or out of range.

        Examples
        --------
        >>> model.get_dose_response("LIG1", "TGT1", levels=3).shape == (adata.n_obs, 3)
        True
        """
        require_training(self)
        asked, dosage = Pairs.of(source, target, None, self.genes), Levels.of(levels)
        _refuse_bad_arguments(where, 0)
        section, spots = self._read(adata)
        all_rows = checked_rows(indices, spots.n_obs)
        rows = _perturbable(all_rows, spots, where)
        expression = Expression(spots, asked.genes)
        dosage.warn_of_extrapolation(*_highest(expression, asked))
        one = Counterfactual(
            self.module, spots, rows, expression, where=where, mask_targets=mask_targets, batch_size=batch_size
        )
        parts = asked.parts[source]
        if spots.masked[parts].any():
            raise ValueError(f"The section has no counts of {source!r}, so it cannot be set there.")
        readout = Readout([asked.parts[target]])
        values = torch.cat([predicted[:, :, 0] for _, predicted in one.responses(parts, dosage, readout)], dim=1)
        response = pd.DataFrame(
            values.T.cpu().numpy(),
            index=section.obs_names[rows],
            columns=pd.Index(one.dose(parts, dosage), name=source),
        )
        return response.reindex(section.obs_names[all_rows])


def _refuse_bad_arguments(where: str, n_controls: int) -> None:
    refuse_unknown("where", where, get_args(Where))
    if n_controls != int(n_controls) or n_controls < 0:
        raise ValueError(f"n_controls={n_controls!r} must be a whole number, 0 or more.")


def _perturbable(rows: np.ndarray, spots: Spots, where: Where) -> np.ndarray:
    if where != "neighbors":
        return rows
    rows = rows[spots.n_neighbors[rows, 0] > 0]
    if not len(rows):
        raise ValueError("None of the asked spots has neighbours to perturb; take `where='self'`.")
    return rows


def _highest(expression: Expression, asked: Pairs) -> tuple[np.ndarray, list[str]]:
    names = list(dict.fromkeys(asked.table["source"]))
    return np.array([min(expression.column(g).max() for g in asked.parts[name]) for name in names]), names
