"""Denoised expression: every entry predicted while it is masked in its own spot."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from sagefm.data import Spots, checked_rows, positions_of, refuse_unwritable_key
from sagefm.model._base import SpotModel, require_training
from sagefm.model._imputation import Entries, predicted_entries, prediction_attrs, write_layer
from sagefm.model._recovery import random_masks
from sagefm.model._whole_genes import library_size as estimated_library_size

N_MASKS = 4  # of a quarter of the entries each; in training, about as many are masked


class ExpressionMixin(SpotModel):
    """`get_normalized_expression`, for :class:`sagefm.SAGEFM`."""

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        genes: Sequence[str] | str | None = None,
        library_size: float | Literal["latent"] = 1,
        batch_size: int | None = None,
        return_numpy: bool = False,
        fit_section: bool = True,
        seed: int = 0,
        layer_added: str | None = None,
    ) -> pd.DataFrame | np.ndarray:
        """Return denoised expression: every entry is predicted while it is masked in its own spot.

        Four masks, which do not overlap, cover every gene of every spot once, and entries in a mask are predicted as by
        :meth:`impute_masked`: from the other genes of the spot and from its neighbours, where the gene is not masked.
        So the count of a gene in a spot does not enter its own denoised value. Then each gene is scaled within each
        section, such that the expected counts of all spots add up to the measured ones. This does not change a gene
        that is predicted as zero in every spot.

        Masks do not depend on `genes`: the values of a gene are the same whichever other genes are requested.

        Parameters
        ----------
        adata
            AnnData with the spots. Defaults to the model's AnnData. Genes are matched by name, in any order.
        indices
            Spots to return, as positions or as a boolean array. Defaults to all. Whole sections are predicted in any
            case, for their totals.
        genes
            Names of genes to return (`gene_list` in scvi-tools), which must be in both the model and the section. By
            default all such genes, in the order of the section. Memory grows with their number.
        library_size
            As in scvi-tools. With the default 1, values are shares of the library size of a spot, and those of all
            genes of the model add up to about 1. Another number multiplies the shares, for example 10,000. `"latent"`:
            expected counts at the spot's own library size, as estimated from its unmasked genes.
        batch_size
            Number of spots that are held as dense arrays at one time. Defaults to 512.
        return_numpy
            Whether to return an array instead of a DataFrame.
        fit_section
            As in :meth:`impute_masked`. Without it, the network alone predicts, which is about four times as fast.
        seed
            Seed of the masks.
        layer_added
            Name of a layer of `adata` to which the result is also written, NaN for spots and genes that were not
            requested. A layer has the size of the whole section, whatever the number of `genes`.

        Returns
        -------
        pandas.DataFrame or numpy.ndarray
            Float32, (requested spots, requested genes), on a linear scale. ``attrs`` of the DataFrame are those of
            :meth:`impute_masked`; `scale` is `"linear"`, or `"counts"` with `library_size="latent"`.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        KeyError
            If a gene is not in the model; the message suggests similar names.
        ValueError
            If a gene is not in the section (use :meth:`impute_masked` for such genes), if `library_size` is neither
            positive nor `"latent"`, or if `adata` does not pass the checks of :meth:`setup_anndata`.

        Examples
        --------
        >>> import numpy as np
        >>> denoised = model.get_normalized_expression(genes=["GENE0001", "GENE0002"], library_size=1e4)
        >>> denoised.shape == (adata.n_obs, 2)
        True

        Expected counts, which add up to the measured ones:

        >>> expected = model.get_normalized_expression(genes="GENE0001", library_size="latent")
        >>> bool(np.isclose(expected.sum(), adata[:, "GENE0001"].X.sum(), rtol=1e-4).all())
        True
        """
        require_training(self)
        refuse_unwritable_key(layer_added, "layer_added")
        _refuse_library_size(library_size)
        section, spots = self._read(adata)
        rows, positions = checked_rows(indices, spots.n_obs), _measured_positions(genes, spots)
        whole = np.flatnonzero(np.isin(spots.sections, spots.sections[rows]))
        masks = random_masks([seed], len(spots.genes), 1 / N_MASKS, N_MASKS)
        entries = (predicted_entries(self.module, spots, whole, mask, batch_size, fit=fit_section) for mask in masks)
        values = self._denoised(chain.from_iterable(entries), spots.sections[whole], positions, library_size)
        if indices is not None:
            values = values[np.searchsorted(whole, rows)]
        if layer_added is not None:
            write_layer(section, layer_added, rows, spots.columns[positions], values)
        if return_numpy:
            return values
        frame = pd.DataFrame(values, section.obs_names[rows], spots.genes[positions])
        scale, size = ("counts", None) if library_size == "latent" else ("linear", float(library_size))
        frame.attrs.update(scale=scale, **prediction_attrs(self, adata, section, spots, rows, size))
        return frame

    @torch.inference_mode()
    def _denoised(
        self,
        entries: Iterable[Entries],
        sections: np.ndarray,
        positions: np.ndarray,
        library_size: float | Literal["latent"],
    ) -> np.ndarray:
        """Collect predictions of genes, by position, from `entries` of spots in `sections`, (spots, positions)."""
        names, numbers = np.unique(sections, return_inverse=True)
        values = np.zeros((len(sections), len(positions)), dtype=np.float32)
        expected, measured = np.zeros((2, len(names), len(positions)))
        for places, encoded, logged in entries:  # each of one section
            masked = encoded.mask[:, positions]
            counts = torch.expm1(logged[:, positions]) / encoded.factor * masked
            share = counts / estimated_library_size(self.module, encoded)
            values[places] += (counts if library_size == "latent" else share * library_size).cpu().numpy()
            expected[numbers[places[0]]] += counts.sum(0).cpu().numpy()
            measured[numbers[places[0]]] += (encoded.counts[:, positions] * masked).sum(0).cpu().numpy()
        ratio = np.divide(measured, expected, out=np.ones_like(expected), where=expected > 0).astype(np.float32)
        for number in range(len(names)):
            values[numbers == number] *= ratio[number]
        return values


def _measured_positions(genes: Sequence[str] | str | None, spots: Spots) -> np.ndarray:
    """Return the positions of genes in the model; by default of all that the section has, in its order."""
    if genes is None:
        known = np.flatnonzero(spots.known)
        return known[np.argsort(spots.columns[known])]
    positions = positions_of(genes, spots.genes)
    if len(missing := spots.genes[positions[~spots.known[positions]]]):
        raise ValueError(
            f"{len(missing)} requested genes are not in the section, for example {missing[0]!r}, so there are no "
            "counts to denoise. Use `impute_masked(genes=...)` to predict genes that are missing from its panel."
        )
    return positions


def _refuse_library_size(library_size: float | str) -> None:
    """Raise unless `library_size` is a positive number or `"latent"`."""
    is_number = isinstance(library_size, int | float | np.number) and not isinstance(library_size, bool)
    if not (library_size == "latent" or (is_number and 0 < float(library_size) < np.inf)):
        raise ValueError(f"library_size={library_size!r} must be a positive number or 'latent'.")
