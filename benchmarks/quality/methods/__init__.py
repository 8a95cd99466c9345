"""One file per method: `embed(adata, seed, **options)` returns an array with the representation, or labels, of spots.

`adata` has raw counts in `X`, the section in `obs["sample"]`, coordinates in `obsm["spatial"]` (sections placed side
by side), a neighbour graph in `obsp["spatial_connectivities"]` (two rings; of cells, the 14 nearest), the number of
annotated domains in `uns["n_domains"]`, and whether rows are single cells in `uns["single_cells"]`. It does not contain
the annotations.
"""
