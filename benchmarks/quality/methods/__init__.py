"""One file a method: `embed(adata, seed, **options)` gives the spots' representation, or labels, as an array.

`adata` has raw counts in `X`, the section in `obs["sample"]`, coordinates in `obsm["spatial"]` (sections laid side by
side), a neighbour graph of two rings in `obsp["spatial_connectivities"]`, and the number of annotated domains in
`uns["n_domains"]`. Annotations are not in it.
"""
