"""The spots of one section of a corpus, without an AnnData and without scvi-tools' register."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from sagefm._counts import one_value_an_entry
from sagefm._data import Spots
from sagefm._genes import match_genes
from sagefm._normalization import Normalization


class SectionSpots(Spots):
    """Spots of a section that was checked when it was indexed; counts are kept in the model's order alone.

    Parameters
    ----------
    adata
        The section, counts in `X` in memory.
    graph
        Its clean neighbour graph.
    sections
        Name or number of the section each spot is of, (n,), where the file holds several.
    genes
        The model's genes.
    normalization
        The model's normalisation.
    """

    def __init__(
        self,
        adata: AnnData,
        graph: sp.csr_matrix,
        sections: np.ndarray,
        genes: pd.Index,
        normalization: Normalization,
    ) -> None:
        self.genes = genes
        self.normalization = normalization
        self.graph = graph
        self.sections = sections
        self.columns = match_genes(genes, adata.var_names)
        self.known = self.visible = self.columns >= 0
        # Both are made here, not when asked for, so that the section's own matrix can go.
        self._counts = self._in_model_order(one_value_an_entry(adata.X))
        self._logged = self.normalization.log(self._counts, self.visible)
