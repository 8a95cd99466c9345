"""Imputation: predict masked entries, whole masked genes, and genes missing from a section's panel."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import settings
from torch import Tensor

from sagefm._errors import refuse_unknown
from sagefm.data import Mask, Spots, checked_rows, positions_of, refuse_unwritable_key
from sagefm.model._base import SpotModel, require_training
from sagefm.model._training_record import spots_in_training, status_of
from sagefm.model._whole_genes import Scale, at_section_level, at_training_level, on_scale
from sagefm.module import Encoded, MaskedCenterModule, OnePass, section_decoder

Entries = tuple[np.ndarray, Encoded, Tensor]  # see predicted_entries


class ImputationMixin(SpotModel):
    """`impute_masked`, for :class:`sagefm.SAGEFM`."""

    def impute_masked(
        self,
        adata: AnnData | None = None,
        *,
        genes: Sequence[str] | str | None = None,
        mask: np.ndarray | sp.spmatrix | pd.DataFrame | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        fit_section: bool = True,
        layer_added: str | None = None,
        key_added: str | None = None,
        scale: Literal["log1p", "counts"] = "log1p",
        level: Literal["section", "training"] = "section",
    ) -> pd.DataFrame | sp.csr_matrix | sp.csr_array:
        """Predict expression that is masked from the model.

        Pass either `genes` or `mask`. All of `genes` are masked together in every spot (the missing-gene test of the
        SAGE-FM paper). Entries in `mask` are masked in their own spot but not where the spot is a neighbour of another
        (the masked central spot that the model is trained on). To predict genes that are in the model but missing from
        the section's panel, use `genes`. Masked counts do not contribute to the library size either.

        Parameters
        ----------
        adata
            AnnData with the spots to predict for. Defaults to the model's AnnData. Genes are matched by name, in any
            order.
        genes
            Names of genes of the model.
        mask
            Entries to predict: boolean, (spots, genes) in the order of `adata`; an array, a sparse matrix or a
            DataFrame.
        indices
            Spots to predict for, as positions or as a boolean array. Defaults to all. All their neighbours are used,
            whether or not they are in `indices`.
        batch_size
            Number of spots that are held as dense arrays at one time. Defaults to 512.
        fit_section
            Whether, for `mask`, the decoder is first fitted to each section by ridge regression on its unmasked
            entries: its weights, and how much the mean of a gene over the neighbours contributes. This takes about
            three times as long and recovers more, most of all in tissue that the model was not trained on. With False,
            the weights are those of the network, and the contribution of a gene's mean over the neighbours follows from
            its variance and its covariance with the spots, at little cost. Whole `genes` are always predicted by the
            network alone, because the section has no unmasked entries of them. So is everything with
            `scale_genes=False`.
        layer_added
            Name of a layer of `adata` to which the result is also written: an array, NaN where nothing was requested,
            or, for a sparse `mask`, a sparse matrix.
        key_added
            Key in `obsm` to which predictions of `genes` are also written, as a DataFrame; for genes that are missing
            from `adata`, and so from its layers. To plot one with scanpy or squidpy, copy it to `obs`.
        scale
            `"log1p"`: the natural log of one plus counts scaled to the model's target depth (see :attr:`target_depth`),
            or of one plus raw counts with `normalization="none"`. `"counts"`: expected raw counts, at the library size
            estimated from the unmasked genes of the spot. Entries of a `mask`, and genes at the level of the training
            data, are transformed back from the log scale without correction, which makes rare genes too low.
        level
            The level of whole `genes`. `"section"`: the network predicts the pattern, and the level is the section's
            own. A gene that the section measures gets its own mean and standard deviation on the log scale, and, with
            `scale="counts"`, its own total of counts: these three numbers are the only use that is made of the masked
            counts. For a gene missing from the panel, they are estimated from how the levels of the measured genes
            differ from the training data: by ridge regression over genes, on each gene's level in the training data
            and on its weights in the decoder. All spots of a section are read for this, whatever the `indices`.
            `"training"`: the level of the training data, whatever the section shows; with `scale_genes=False`, always.

        Returns
        -------
        pandas.DataFrame, or scipy.sparse.csr_matrix or csr_array
            Float32. With `genes`: (requested spots, requested genes). With `mask`: (requested spots, genes of `adata`),
            NaN where `mask` is not set and where the gene is not in the model (a warning gives the number of these).
            With a sparse `mask`: a sparse matrix of that shape, whose stored entries are those that are True in
            `mask`; no dense array of all entries is made.
            ``attrs`` holds `scale`; `target_sum`, to which the counts of every spot are scaled on that scale, or None
            if they are not; and `spots`: `"trained on"` if the model was trained on any of these spots,
            `"held out"` if on others of the section only, else `"new"`. :func:`sagefm.pl.recovered` uses them.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If a gene is not in the model; the message suggests similar names.
        ValueError
            If neither or both of `genes` and `mask` are given, if the mask has another shape or type, if `layer_added`
            is given for genes that are not in `adata`, if `key_added` is given with `mask`, or if `adata` does not
            pass the checks of :meth:`setup_anndata`.

        Examples
        --------
        Whole genes:

        >>> recovered = model.impute_masked(genes=["GENE0001", "GENE0002"])
        >>> recovered.shape == (adata.n_obs, 2)
        True

        Single entries:

        >>> import numpy as np
        >>> mask = np.random.default_rng(0).random(adata.shape) < 0.3
        >>> bool((model.impute_masked(mask=mask).notna() == mask).all(axis=None))
        True

        Few entries of many, with a sparse mask:

        >>> import scipy.sparse as sp
        >>> predicted = model.impute_masked(mask=sp.csr_matrix(mask))
        >>> bool(predicted.nnz == mask.sum())
        True
        """
        require_training(self)
        refuse_unwritable_key(layer_added, "layer_added")
        refuse_unwritable_key(key_added, "key_added")
        if (genes is None) == (mask is None):
            raise ValueError("Pass either `genes`, to mask whole genes, or `mask`, to mask single entries; not both.")
        if genes is None and key_added is not None:
            raise ValueError("`key_added` stores predictions of `genes`; use `layer_added` for those of a `mask`.")
        refuse_unknown("scale", scale, ("log1p", "counts"))
        refuse_unknown("level", level, ("section", "training"))
        positions = np.empty(0, dtype=int) if genes is None else positions_of(genes, self.genes)
        section, spots = self._read(adata, np.isin(np.arange(len(self.genes)), positions))
        rows = checked_rows(indices, spots.n_obs)
        if mask is None:
            columns, names = spots.columns[positions], self.genes[positions]
            if layer_added is not None and len(missing := names[columns < 0]):
                raise ValueError(
                    f"{len(missing)} requested genes are not in the section, so they have no column in a layer, for "
                    f"example {missing[0]!r}. Leave out `layer_added`; pass `key_added` to store them in obsm."
                )
            predict = at_section_level if level == "section" and self.module.scale_genes else at_training_level
            values = predict(self.module, spots, rows, positions, batch_size, scale)
        else:
            columns, names = np.arange(section.n_vars), section.var_names
            mask = checked_mask(mask, section)
            _warn_of_unknown_genes(mask[rows], spots, names)
            if sp.issparse(mask):
                entries = sparse_entries(self.module, spots, rows, mask, scale, batch_size, fit=fit_section)
                if layer_added is not None:
                    section.layers[layer_added] = _all_rows(entries, rows, section.n_obs)
                return entries
            values = self._impute_entries(spots, rows, mask, scale, batch_size, fit=fit_section)
        if layer_added is not None:
            write_layer(section, layer_added, rows, columns, values)
        frame = pd.DataFrame(values, index=section.obs_names[rows], columns=names)
        is_scaled = scale == "log1p" and self.module.normalization.method == "size"
        depth = self.target_depth if is_scaled else None
        frame.attrs.update(scale=scale, **prediction_attrs(self, adata, section, spots, rows, depth))
        if key_added is not None:
            stored = np.full((section.n_obs, len(names)), np.nan, dtype=np.float32)
            stored[rows] = values
            section.obsm[key_added] = pd.DataFrame(stored, section.obs_names, names)
        return frame

    def _impute_entries(
        self, spots: Spots, rows: np.ndarray, requested: Any, scale: Scale, batch_size: int | None, *, fit: bool
    ) -> np.ndarray:
        """Predict requested entries, masked in their own spot; NaN elsewhere, (rows, genes of the section)."""
        values = np.full((len(rows), requested.shape[1]), np.nan, dtype=np.float32)
        mask, known = ModelMask(requested, spots.columns), spots.known
        for places, encoded, logged in predicted_entries(self.module, spots, rows, mask, batch_size, fit=fit):
            predicted = on_scale(scale, logged, encoded)
            predicted[~encoded.mask.cpu().numpy()] = np.nan
            values[np.ix_(places, spots.columns[known])] = predicted[:, known]
        return values


def predicted_entries(
    module: MaskedCenterModule, spots: Spots, rows: np.ndarray, mask: Mask, batch_size: int | None, *, fit: bool
) -> Iterator[Entries]:
    """Yield pieces of `rows`, encoded without the entries of the centres that are in `mask`.

    Each piece comes with its places in `rows`, and with predictions of all genes on the log scale, (n, genes). `fit` is
    whether the decoder is fitted to each section.
    """
    one_pass = OnePass(module, spots, batch_size, spots.units_without(mask))
    for name in np.unique(spots.sections[rows]):
        places = np.flatnonzero(spots.sections[rows] == name)
        decoder = section_decoder(module, one_pass, np.flatnonzero(spots.sections == name), mask, fit=fit)
        for encoded in one_pass.masked(rows[places], mask):
            now, places = np.split(places, [len(encoded.rows)])
            yield now, encoded, decoder.decode(encoded, one_pass)


def prediction_attrs(
    model: SpotModel,
    adata: AnnData | None,
    section: AnnData,
    spots: Spots,
    rows: np.ndarray,
    library_size: float | None,
) -> dict[str, Any]:
    """Return what `attrs` of predictions say: to what counts are scaled, and what the spots were in training.

    `library_size` is that over all genes of the model, of which the section has some.
    """
    trained, held_out = spots_in_training(model, model.adata if adata is None else adata, section, spots)
    share = float(model.module.normalization.profile.cpu().numpy()[spots.known].sum())
    target_sum = None if library_size is None else library_size * share
    return {"target_sum": target_sum, "spots": status_of(trained[rows], held_out[rows])}


def sparse_entries(
    module: MaskedCenterModule,
    spots: Spots,
    rows: np.ndarray,
    requested: sp.csr_matrix,
    scale: Scale,
    batch_size: int | None,
    *,
    fit: bool,
) -> sp.csr_matrix:
    """Predict requested entries, masked in their own spot, as a matrix of the same pattern.

    (rows, genes of the section); stored entries of genes that are not in the model are NaN.
    """
    parts, order = [], []
    position = np.full(requested.shape[1], -1)  # of each gene of the section in the model
    position[spots.columns[spots.known]] = np.flatnonzero(spots.known)
    mask = ModelMask(requested, spots.columns)
    for places, encoded, logged in predicted_entries(module, spots, rows, mask, batch_size, fit=fit):
        part = requested[rows[places]].tocoo()
        genes = position[part.col]
        values = np.where(genes >= 0, on_scale(scale, logged, encoded)[part.row, genes], np.float32(np.nan))
        parts.append(type(part)((values, (part.row, part.col)), part.shape).tocsr())
        order.append(places)
    return sp.vstack(parts, format="csr")[np.argsort(np.concatenate(order))]


def _all_rows(values: sp.csr_matrix, rows: np.ndarray, n_rows: int) -> sp.csr_matrix:
    """Return a matrix of `n_rows` rows that has `values` in `rows` and is empty elsewhere."""
    rows, first = np.unique(rows, return_index=True)
    values, lengths = values[first], np.zeros(n_rows, int)
    lengths[rows] = np.diff(values.indptr)
    return type(values)((values.data, values.indices, np.cumsum([0, *lengths])), (n_rows, values.shape[1]))


def write_layer(adata: AnnData, key: str, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
    """Write `values`, (rows, columns), to a layer, which is NaN elsewhere."""
    layer = np.full(adata.shape, np.nan, dtype=np.float32)
    layer[np.ix_(rows, columns)] = values
    adata.layers[key] = layer


def checked_mask(mask: Any, adata: AnnData) -> np.ndarray | sp.csr_matrix:
    """Return the mask as a boolean array, or a CSR matrix or array without explicit zeros, of the shape of `adata`."""
    if isinstance(mask, pd.DataFrame):
        named = [(mask.index, adata.obs_names), (mask.columns, adata.var_names)]
        if not all(isinstance(given, pd.RangeIndex) or given.equals(names) for given, names in named):
            raise ValueError(
                "`mask` is a DataFrame whose row and column names are not those of the section in the same order. Pass "
                "`mask.loc[adata.obs_names, adata.var_names]`, or an array."
            )
        mask = mask.to_numpy()
    mask = mask.tocsr(copy=True) if sp.issparse(mask) else np.asarray(mask)
    if mask.shape != adata.shape:
        raise ValueError(f"`mask` has shape {mask.shape}; expected {adata.shape}, spots by genes of the section.")
    if mask.dtype != bool:
        raise ValueError(f"`mask` must be boolean, True where an entry is to be predicted; found {mask.dtype}.")
    if sp.issparse(mask):
        mask.sum_duplicates()
        mask.eliminate_zeros()
    return mask


class ModelMask:
    """A mask over the genes of a section, read in the order of the model's genes.

    Parameters
    ----------
    mask
        Boolean, (spots, genes of the section).
    columns
        Column of each of the model's genes in the section, or -1.
    """

    def __init__(self, mask: np.ndarray | sp.csr_matrix, columns: np.ndarray) -> None:
        self._mask, self._columns = mask, columns

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        part = self._mask[rows]
        padded = np.pad(part.toarray() if sp.issparse(part) else part, ((0, 0), (0, 1)))
        return padded[:, self._columns]  # column -1 is the padding, which is not masked


def _warn_of_unknown_genes(mask: np.ndarray | sp.csr_matrix, spots: Spots, names: pd.Index) -> None:
    unknown = np.setdiff1d(np.arange(len(names)), spots.columns)
    n_entries = np.asarray(mask[:, unknown].sum(axis=0)).ravel()
    if n_entries.any():
        warnings.warn(
            f"{int(n_entries.sum())} entries of `mask` are of genes that are not in the model, for example "
            f"{names[unknown[n_entries > 0][0]]!r}; they stay NaN.",
            UserWarning,
            stacklevel=settings.warnings_stacklevel,
        )
