"""In-silico perturbation: the predicted change of a target in a spot if its neighbours express more of a source."""

import warnings
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import settings

from sagefm._errors import refuse_unknown
from sagefm.data import Spots, checked_rows, group_spots, shares
from sagefm.model._base import SpotModel, require_training
from sagefm.model.perturbation._controls import control_pools
from sagefm.model.perturbation._counterfactual import Counterfactual, Readout, Where
from sagefm.model.perturbation._effects import Screen
from sagefm.model.perturbation._levels import Levels, LevelsLike
from sagefm.model.perturbation._pairs import Pairs
from sagefm.model.perturbation._pathway_response import SetScreen, sampled_spots
from sagefm.model.perturbation._sequential import control_comparisons, log_controls
from sagefm.model.perturbation._target_sets import (
    MIN_TARGETS,
    Net,
    Regulators,
    SectionGenes,
    random_sources,
    read_net,
    requested_sources,
    usable_sets,
)


class PerturbationMixin(SpotModel):
    """`perturb`, `get_dose_response` and `get_pathway_response`, for :class:`sagefm.SAGEFM`."""

    def perturb(
        self,
        sources: Sequence[str] | str | None = None,
        targets: Sequence[str] | str | None = None,
        *,
        pairs: pd.DataFrame | None = None,
        levels: LevelsLike = 5,
        where: Where = "neighbors",
        n_controls: int = 100,
        max_controls: int = 400,
        groupby: str | None = None,
        mask_targets: bool = True,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Set source genes to several levels and predict target genes at each level.

        The log-scale value of a source is set in the neighbours of every spot (or in the spot itself), the target is
        masked in the spot, and the target is predicted at each level. Library sizes keep their measured values: setting
        a source to a higher level rescales no other gene. The result is what the model expects, not what an experiment
        would give: the model knows associations in space, whatever their cause.

        Parameters
        ----------
        sources, targets
            Names of genes. All combinations are evaluated, except those of a gene with itself. `"A_B"` is a complex:
            as a source, its parts are set together; as a target, it is the mean of its parts.
        pairs
            Alternatively, a table with columns `source` and `target`; duplicate pairs are evaluated once.
        levels
            A number: that many levels, evenly spaced from each source's minimum to its maximum over all spots. A list:
            values on the log scale, 0 being a knock-out. A dict with one list: `{"fold_change": [1, 0]}`, factors
            applied to the counts of each spot; `{"percentile": [5, 95]}`, percentiles of the source over all spots; or
            `{"value": [0, 2]}`, the same as the list. Effects are differences between the last and the first level.
        where
            Set the source in the `"neighbors"`, in the spot itself (`"self"`), or in `"both"`.
        n_controls
            Number of matched random genes that each source and each target is first compared with; 0 for no
            comparison.
        max_controls
            Largest number of matched random genes. Pairs with a small p are compared with twice as many, again and
            again, until their p is precise or this number is reached [#besag]_. With 400, the smallest p is 6.2e-6,
            which gives q < 0.05 for a single pair in 8,000. Beyond `n_controls`, at most a fifth of the genes that vary
            are used, so that they match as closely. 0 draws no more than `n_controls`.
        groupby
            Column of `obs`; effects are then averaged over each group of spots. Spots without a group are left out.
        mask_targets
            Whether the target's own count is masked in the spot, one target at a time.
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
            One row per pair, or per pair and group, with

            ``source``, ``target``, (``group``)
                The gene that is set and the gene that is predicted.
            ``effect``
                Mean over the spots of the difference between the predictions at the last and the first level, in
                log-normalised expression (natural log).
            ``spread``
                Standard deviation of that difference over the spots; NaN for a single spot.
            ``scaled_effect``
                The effect in standard deviations of the target over all spots.
            ``slope``
                Least-squares slope of the mean prediction on the source's mean level.
            ``reverse_effect``, ``scaled_reverse_effect``
                Effect of the target, set between its own first and last level, on the source.
            ``neighbor_correlation``
                Correlation of the target in the spot with the mean of the source over its neighbours, as measured
                over all spots (with `where="self"`, with the source in the spot): the plain explanation.
            ``control_percentile``
                Percentage of controls whose effect is smaller in size: the same source on matched random targets, and
                matched random sources on the same target, all in standard deviations of the target.
            ``p``, ``q``
                Empirical p-value of the effect among all pairs of control sources and control targets, after removing
                what the source does to any target and what any source does to the target; and its
                Benjamini-Hochberg q-value over the table. Pairs and controls are compared without masking targets, on
                at most 512 random spots (with groups: on at least 64 of each, if it has that many).
            ``n_controls``
                Number of matched genes that the source and the target were compared with; 0 without a comparison.
            ``n_spots``
                Number of spots averaged over.

            A source that does not vary over the section, or that is missing from its panel, has no range to move in;
            its effects and p are NaN.
            ``attrs`` holds `levels`, `where`, `n_controls`, `max_controls`, `mask_targets` and `seed`; and, over pairs
            and groups, `n_compared` with controls, `n_extended` with more than `n_controls`, `n_at_limit` whose p could
            be still smaller, `n_control_pairs` in total, and `smallest_p`, the smallest possible p.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If a gene is not in the model, or `obs` has no such column.
        ValueError
            If no pair is requested, a source shares a gene with its target, or levels are fewer than two or out of
            range.

        Warns
        -----
        UserWarning
            If a level is above all measured values of a source.

        References
        ----------
        .. [#besag] Besag and Clifford (1991), Sequential Monte Carlo p-values, Biometrika.

        Examples
        --------
        >>> table = model.perturb(["LIG1", "LIG2"], "TGT1", n_controls=20)
        >>> table[["source", "target"]].to_numpy().tolist()
        [['LIG1', 'TGT1'], ['LIG2', 'TGT1']]
        """
        require_training(self)
        requested, doses = Pairs.parse(sources, targets, pairs, self.genes), Levels.parse(levels)
        for name, number in (("n_controls", n_controls), ("max_controls", max_controls)):
            if number != int(number) or number < 0:
                raise ValueError(f"{name}={number!r} must be a whole number, 0 or more.")
        section, spots = self._read(adata)
        rows = _perturbable(checked_rows(indices, spots.n_obs), spots, where)
        rows, names, groups = group_spots(rows, section, groupby)
        mean, deviation = spots.gene_moments(np.arange(spots.n_obs))
        pools = control_pools(mean, deviation, int(n_controls), int(max_controls), seed)
        genes = np.union1d(requested.genes, pools[-1].genes) if pools else requested.genes
        deviation = np.where(deviation > 0, deviation, np.nan)  # effects on a constant gene cannot be standardised

        counterfactual = Counterfactual(self.module, spots, rows, genes, where, mask_targets, batch_size)
        _warn_of_extrapolation(counterfactual, requested.sources, doses)
        screen = Screen(counterfactual, requested, doses, groups, deviation)
        columns = screen.columns()
        totals: dict[str, float] = {}
        if pools:
            compared, totals = control_comparisons(screen, pools, np.isfinite(columns["scaled_effect"]), seed)
            columns |= compared
            log_controls(totals, pools, max_controls)
        table = screen.table(columns, names, groupby)
        arguments = {"levels": levels, "where": where, "n_controls": n_controls, "max_controls": max_controls}
        table.attrs.update(**arguments, mask_targets=mask_targets, seed=seed, **totals)
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
            log-normalised expression; the difference between the last and the first is the effect in each spot.
            Isolated spots are NaN with `where="neighbors"`.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If a gene is not in the model.
        ValueError
            If the source shares a gene with the target, or levels are fewer than two or out of range.

        Examples
        --------
        >>> model.get_dose_response("LIG1", "TGT1", levels=3).shape == (adata.n_obs, 3)
        True
        """
        require_training(self)
        requested, doses = Pairs.parse(source, target, None, self.genes), Levels.parse(levels)
        section, spots = self._read(adata)
        all_rows = checked_rows(indices, spots.n_obs)
        rows, parts = _perturbable(all_rows, spots, where), requested.parts[source]
        if spots.masked[parts].any():
            raise ValueError(f"The section has no counts of {source!r}, so it cannot be set there.")
        counterfactual = Counterfactual(self.module, spots, rows, requested.genes, where, mask_targets, batch_size)
        _warn_of_extrapolation(counterfactual, requested.sources, doses)
        readout = Readout.of_targets([requested.parts[target]])
        predicted = torch.cat([piece for _, piece in counterfactual.responses(parts, doses, readout)], dim=1)
        columns = pd.Index(counterfactual.dose(parts, doses), name=source)
        response = pd.DataFrame(predicted[:, :, 0].T.cpu().numpy(), index=section.obs_names[rows], columns=columns)
        return response.reindex(section.obs_names[all_rows])

    def get_pathway_response(
        self,
        net: Net,
        sources: Sequence[str] | str | None = None,
        *,
        regulators: Regulators | None = None,
        levels: LevelsLike = 2,
        where: Where = "self",
        n_targets: int | None = 100,
        n_controls: int = 300,
        groupby: str | None = None,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Set the regulator of each pathway, and compare the response of its known targets with matched genes.

        The effect on a single target is small and cannot be distinguished from that on other genes; the effects on a
        whole set of targets can. The regulator is set from its minimum to its maximum, and each target is predicted
        while it is masked in the spot. The response is what the model associates with the regulator in tissue; it does
        not prove that the regulator causes it.

        Parameters
        ----------
        net
            Signed sets of targets: a table with columns `source`, `target` and `weight`, as decoupler returns them
            (for example PROGENy or CollecTRI); without weights, all targets are expected to rise. Or a dict from the
            name of a set to a list of genes, such as hallmark sets.
        sources
            Sources of `net` to evaluate; all by default.
        regulators
            Gene or genes to set for a source that is not a gene, by the name of the source; several are set together.
            A source that is a gene, or a complex `"A_B"`, is set itself, and the pathways of PROGENy [#schubert]_
            [#holland]_ have defaults: Androgen AR, EGFR EGFR, Estrogen ESR1, Hypoxia HIF1A, JAK-STAT STAT1, MAPK MAPK1,
            NFkB NFKB1, PI3K PIK3CA, TGFb TGFB1, TNFa TNF, Trail TNFSF10, VEGF VEGFA, WNT CTNNB1, p53 TP53.
        levels
            As in :meth:`perturb`; effects are differences between the last and the first level.
        where
            Set the regulator in the spot (`"self"`), in its `"neighbors"`, or in `"both"`.
        n_targets
            Number of targets of each source that are used: those with the largest absolute weight and, of equal weight,
            the most expressed. None uses all.
        n_controls
            Number of random sources that each regulator is compared with; 0 for no comparison.
        groupby
            Column of `obs`; effects are then averaged over each group of spots. Spots without a group are left out.
        adata
            Spots to perturb; the AnnData of the model by default.
        indices
            Spots to predict, as positions or as a boolean array; all by default.
        batch_size
            Number of spots that are dense at one time; 512 by default. It does not change the result.
        seed
            Seed of the sample of spots. Effects are averages over at most 512 random spots (with groups: over at least
            64 of each, if it has that many).

        Returns
        -------
        pandas.DataFrame
            One row per source, or per source and group, with

            ``source``, (``group``), ``n_targets``
                Name of the set, and number of targets: expressed in at least 5 % of the spots, the regulator itself
                left out.
            ``effect``, ``control_effect``
                Mean of the scaled effects (in standard deviations of each gene) times the sign of the weight, over the
                targets and over their matched genes: for each target, the three genes closest in mean and standard
                deviation that do not belong to the set.
            ``auroc``
                Area under the ROC curve of the same values, for targets among matched genes: 0.5 if they respond as
                other genes do, 1 if every target responds more in the expected direction.
            ``sign_agreement``, ``control_sign_agreement``
                Share of targets, and of matched genes, whose effect has the sign of the weight.
            ``p``, ``q``
                One-sided empirical p-value of the AUROC among those of `n_controls` random sources, matched to the
                regulator in mean and standard deviation, on the same targets; and its Benjamini-Hochberg q-value over
                the table. Targets are expressed together, which makes their effects similar whatever is set; so
                sources are randomised, and not genes. All are compared without masking targets.
            ``leading_targets``
                The five targets with the largest scaled effect in the expected direction.
            ``n_spots``
                Number of spots averaged over.
            ``reason``
                Why a source has no result; empty if it has one.

            ``attrs`` holds `regulators` (by source), `levels`, `where`, `n_targets`, `n_controls` and `seed`.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If `net` has no such columns or no such source, or a regulator is not in the model.
        TypeError
            If `net` is neither a DataFrame nor a dict.
        ValueError
            If a pair of `net` has several weights, or no source can be evaluated.

        References
        ----------
        .. [#schubert] Schubert et al. (2018), Perturbation-response genes reveal signaling footprints in cancer gene
           expression, Nature Communications 9, 20.
        .. [#holland] Holland, Szalai and Saez-Rodriguez (2020), Transfer of regulatory knowledge from human to mouse
           for functional genomics analysis, Biochimica et Biophysica Acta 1863, 194431.

        Examples
        --------
        >>> sets = {"niche": adata.var_names[:40], "decoy": adata.var_names[40:80]}
        >>> response = model.get_pathway_response(sets, regulators={"niche": "LIG1", "decoy": "LIG2"}, n_controls=20)
        >>> response["source"].tolist()
        ['niche', 'decoy']
        """
        require_training(self)
        _refuse_invalid_counts(n_targets, n_controls)
        table, doses = read_net(net), Levels.parse(levels)
        section, spots = self._read(adata)
        rows = _perturbable(checked_rows(indices, spots.n_obs), spots, where)
        rows, names, groups = group_spots(rows, section, groupby)
        sample = sampled_spots(groups, seed)
        rows, groups = rows[sample], shares(groups[:, sample] > 0)
        genes = SectionGenes.of(spots)
        sets, reasons = usable_sets(table, requested_sources(sources, table), regulators or {}, genes, n_targets)
        controls = {source: random_sources(targets, genes, n_controls) for source, targets in sets.items()}
        parts = [part for found in sets.values() for part in (found.regulators, found.genes)]
        used = np.unique(np.concatenate([*parts, *(found.ravel() for found in controls.values())]))
        counterfactual = Counterfactual(self.module, spots, rows, used, where, True, batch_size)
        _warn_of_extrapolation(counterfactual, {name: found.regulators for name, found in sets.items()}, doses)
        response = SetScreen(counterfactual, genes, doses, groups).table(sets, controls, reasons, names, groupby)
        response.attrs.update(levels=levels, where=where, n_targets=n_targets, n_controls=n_controls, seed=seed)
        response.attrs["regulators"] = {name: list(self.genes[found.regulators]) for name, found in sets.items()}
        return response


def _perturbable(rows: np.ndarray, spots: Spots, where: Where) -> np.ndarray:
    """Return the rows with something to perturb."""
    refuse_unknown("where", where, get_args(Where))
    if where != "neighbors":
        return rows
    rows = rows[spots.n_neighbors[rows, 0] > 0]
    if not len(rows):
        raise ValueError("None of the requested spots has neighbours to perturb; pass `where='self'`.")
    return rows


def _refuse_invalid_counts(n_targets: int | None, n_controls: int) -> None:
    if n_targets is not None and (n_targets != int(n_targets) or n_targets < MIN_TARGETS):
        raise ValueError(f"n_targets={n_targets!r} must be a whole number, {MIN_TARGETS} or more, or None for all.")
    if n_controls != int(n_controls) or n_controls < 0:
        raise ValueError(f"n_controls={n_controls!r} must be a whole number, 0 or more.")


def _warn_of_extrapolation(counterfactual: Counterfactual, sources: Mapping[str, np.ndarray], levels: Levels) -> None:
    """Warn if the highest level exceeds what was measured of a source; its parts are given by its name."""
    excess = {source: levels.excess(counterfactual.expression(parts)) for source, parts in sources.items()}
    exceeded = {source: detail for source, detail in excess.items() if detail}
    if exceeded:
        source, detail = next(iter(exceeded.items()))
        level = "Fold change" if levels.scale == "fold_change" else "Level"
        warnings.warn(
            f"{level} {levels.values.max():g} is above the highest measured value of {len(exceeded)} of {len(sources)} "
            f"sources, for example {source!r} ({detail}): the model extrapolates there.",
            UserWarning,
            stacklevel=settings.warnings_stacklevel,
        )
