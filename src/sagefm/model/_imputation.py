"""Recovered expression: masked entries, hidden genes, and genes that a section's panel lacks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scvi import settings

from sagefm._errors import refuse_unknown
from sagefm.data import Spots, checked_rows, positions_of
from sagefm.model._base import SpotModel, require_training
from sagefm.module import Encoded, OnePass, section_decoder


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
        scale: Literal["log1p", "counts"] = "log1p",
    ) -> pd.DataFrame:
        """Predict genes of a spot without having seen them there.

        Give either `genes`, which are then hidden from every spot and all together (the missing-gene test of the
        SAGE-FM paper), or `mask`, whose entries are hidden from their spot but seen in its neighbours (the masked
        central spot that the model is trained on). A gene that the model knows and the section's panel lacks is asked
        for through `genes`. What is hidden is not part of the spot's library size either.

        Parameters
        ----------
        adata
            Spots to predict for; the AnnData of the model by default. Its genes are found by name, in any order.
        genes
            Names of genes the model knows.
        mask
            Entries to predict, boolean, (spots, genes) in the order of `adata`.
        indices
            Spots to predict for, as positions or as a boolean array; all by default. Their neighbours are used
            whether they are among them or not.
        batch_size
            Number of spots that are dense at one time; 512 by default.
        fit_section
            Whether, for `mask`, the decoder is first fitted to each section, by the entries that are not masked: its
            weights, and how much a gene's mean over the neighbours adds. It takes about three times as long, and
            recovers more, most of all in tissue that the model was not trained on. Whole `genes` are always predicted
            by the network alone: of these the section shows nothing. So is everything with `scale_genes=False`.
        layer_added
            Also write the result to `adata.layers[layer_added]`, NaN where nothing was asked.
        scale
            `"log1p"` is the scale that the model works on: the natural log of one plus counts scaled to the model's
            target depth (see :attr:`target_depth`), or of one plus raw counts with `normalization="none"`.
            `"counts"` is expected raw counts, at the library size estimated from what the spot shows.

        Returns
        -------
        pandas.DataFrame
            Float32. For `genes`: (spots asked, genes asked). For `mask`: (spots asked, genes of `adata`), NaN where
            the mask is not set, and where the model does not know the gene (a warning counts these).

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If the model does not know a gene; close names are offered.
        ValueError
            If neither or both of `genes` and `mask` are given, or the mask has another shape or type.

        Examples
        --------
        >>> recovered = model.impute_masked(genes=list(adata.var_names[:2]))
        >>> recovered.shape == (adata.n_obs, 2)
        True
        """
        require_training(self)
        if (genes is None) == (mask is None):
            raise ValueError("Give either `genes`, to hide whole genes, or `mask`, to hide single entries.")
        refuse_unknown("scale", scale, ("log1p", "counts"))
        if genes is not None:
            return self._impute_genes(adata, genes, indices, batch_size, layer_added, scale)
        return self._impute_entries(adata, mask, indices, batch_size, layer_added, scale, fit_section)

    def _impute_genes(self, adata, genes, indices, batch_size, layer_added, scale) -> pd.DataFrame:
        positions = positions_of(genes, self.genes)
        masked = np.zeros(len(self.genes), dtype=bool)
        masked[positions] = True
        section, spots = self._read(adata, masked)
        columns = spots.columns[positions]
        if layer_added is not None:
            _refuse_genes_without_column(self.genes[positions[columns < 0]])
        rows = checked_rows(indices, spots.n_obs)
        chosen = torch.from_numpy(positions).to(self.module.device)
        encoded = OnePass(self.module, spots, batch_size).unmasked(rows)
        values = np.concatenate([self._predicted(piece, scale, chosen) for piece in encoded])
        if layer_added is not None:
            _write_layer(section, layer_added, rows, columns, values)
        return pd.DataFrame(values, index=section.obs_names[rows], columns=self.genes[positions])

    @torch.inference_mode()
    def _predicted(self, encoded: Encoded, scale: str, genes: torch.Tensor) -> np.ndarray:
        return _on_scale(scale, self.module.decode(encoded.latent, encoded.units.of_genes(genes), genes), encoded)

    def _impute_entries(self, adata, mask, indices, batch_size, layer_added, scale, fit) -> pd.DataFrame:
        section, spots = self._read(adata)
        requested = checked_mask(mask, section)
        rows = checked_rows(indices, spots.n_obs)
        _warn_of_unknown_entries(requested, spots, section.var_names, rows)
        values = np.full((len(rows), section.n_vars), np.nan, dtype=np.float32)
        columns, mask = spots.columns[spots.known], ModelMask(requested, spots.columns)
        one_pass = OnePass(self.module, spots, batch_size, spots.units_without(mask))
        for name in np.unique(spots.sections[rows]):
            places = np.flatnonzero(spots.sections[rows] == name)
            decoder = section_decoder(self.module, one_pass, np.flatnonzero(spots.sections == name), mask, fit=fit)
            for piece in one_pass.masked(rows[places], mask):
                now, places = np.split(places, [len(piece.rows)])
                predicted = _on_scale(scale, decoder.decode(piece, one_pass), piece)[:, spots.known]
                values[np.ix_(now, columns)] = np.where(mask[piece.rows][:, spots.known], predicted, np.nan)
        if layer_added is not None:
            _write_layer(section, layer_added, rows, np.arange(section.n_vars), values)
        return pd.DataFrame(values, index=section.obs_names[rows], columns=section.var_names)


def _on_scale(scale: str, logged: torch.Tensor, encoded: Encoded) -> np.ndarray:
    return (logged if scale == "log1p" else torch.expm1(logged) / encoded.factor).cpu().numpy()


def checked_mask(mask: Any, adata: AnnData) -> np.ndarray | sp.csr_matrix:
    """Return a boolean mask of the shape of `adata`, dense or CSR."""
    if isinstance(mask, pd.DataFrame):
        named = [(mask.index, adata.obs_names), (mask.columns, adata.var_names)]
        if not all(isinstance(given, pd.RangeIndex) or given.equals(names) for given, names in named):
            raise ValueError(
                "`mask` is a DataFrame whose names are not those of the section, in that order. Pass "
                "`mask.loc[adata.obs_names, adata.var_names]`, or an array."
            )
        mask = mask.to_numpy()
    mask = sp.csr_matrix(mask) if sp.issparse(mask) else np.asarray(mask)
    if mask.shape != adata.shape:
        raise ValueError(f"`mask` has shape {mask.shape}; the section has {adata.shape} (spots, genes).")
    if mask.dtype != bool:
        raise ValueError(f"`mask` must be boolean, True where an entry is to be predicted; found {mask.dtype}.")
    return mask


class ModelMask:
    """A mask in the order of the section's genes, read in the order of the model's.

    Parameters
    ----------
    mask
        Boolean (spots, genes of the section).
    columns
        Column of each gene of the model in the section, or -1.
    """

    def __init__(self, mask: np.ndarray | sp.csr_matrix, columns: np.ndarray) -> None:
        self._mask, self._columns = mask, columns

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        part, known = self._mask[rows], self._columns >= 0
        ordered = np.zeros((len(rows), len(known)), dtype=bool)
        ordered[:, known] = (part.toarray() if sp.issparse(part) else part)[:, self._columns[known]]
        return ordered


def _warn_of_unknown_entries(mask: np.ndarray | sp.csr_matrix, spots: Spots, names: pd.Index, rows: np.ndarray) -> None:
    unknown = np.setdiff1d(np.arange(len(names)), spots.columns)
    n_entries = np.asarray(mask[rows][:, unknown].sum(axis=0)).ravel()
    if n_entries.any():
        warnings.warn(
            f"{int(n_entries.sum())} entries of `mask` belong to genes that the model does not know, for example "
            f"{names[unknown[n_entries > 0][0]]!r}; they stay NaN.",
            UserWarning,
            stacklevel=settings.warnings_stacklevel,
        )


def _refuse_genes_without_column(missing: pd.Index) -> None:
    if len(missing):
        raise ValueError(
            f"{len(missing)} of the asked genes are not in the section and have no place in a layer, for example "
            f"{missing[0]!r}. Leave `layer_added` out and use the DataFrame."
        )


def _write_layer(adata: AnnData, key: str, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
    layer = np.full(adata.shape, np.nan, dtype=np.float32)
    layer[np.ix_(rows, columns)] = values
    adata.layers[key] = layer
