"""Screen known pairs of ligand and receptor, or of anything upstream and downstream, by in-silico perturbation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sagefm._errors import MissingKeyError
from sagefm._logging import logger
from sagefm.model.perturbation import ROLES, shares_a_gene, split

if TYPE_CHECKING:
    from sagefm import SAGEFM

# Names that tables of pairs give to what is upstream and to what is downstream, the first that is there.
_UPSTREAM = ("source_genesymbol", "ligand", "source")
_DOWNSTREAM = ("target_genesymbol", "receptor", "target")


def ligand_receptor_screen(
    model: SAGEFM,
    resource: str | Path | pd.DataFrame = "consensus",
    *,
    key_added: str | None = "ligand_receptor_screen",
    **kwargs: Any,
) -> pd.DataFrame:
    """Perturb the source of every known pair in the neighbours of each spot, and read its target in the spot.

    Pairs of which the model does not know a gene, and pairs whose parts overlap, are left out and counted in a log
    message.

    Parameters
    ----------
    model
        A trained model.
    resource
        Name of a resource of the `liana` package, such as `"consensus"` or `"cellphonedb"`; path of a table (CSV, or
        TSV by its ending); or a table. Its columns are `ligand` and `receptor`, or `source` and `target`, or, as
        OmniPath has them, `source_genesymbol` and `target_genesymbol`; so tables of transcription factors or pathways
        and their targets are screened alike. Complexes are written `"A_B"`. Other columns are kept.
    key_added
        Key in `uns` of the screened AnnData under which the table is also written; None writes nothing.
    **kwargs
        Arguments of :meth:`sagefm.SAGEFM.perturb`, for example `groupby`, `n_controls` or `adata`.

    Returns
    -------
    pandas.DataFrame
        What :meth:`sagefm.SAGEFM.perturb` returns, with the other columns of the resource.

    Raises
    ------
    ImportError
        If `resource` is a name and `liana` is not installed.
    KeyError
        If the table has no such columns.
    ValueError
        If the model knows the genes of no pair.

    Examples
    --------
    >>> pairs = adata.uns["simulated_tissue"]["interactions"]
    >>> screen = sagefm.tl.ligand_receptor_screen(model, pairs, n_controls=20)
    >>> len(screen) == len(pairs) == len(adata.uns["ligand_receptor_screen"])
    True
    """
    known = _known(_read(resource), model)
    table = model.perturb(pairs=known[ROLES], **kwargs)
    extra = [column for column in known if column not in table or column in ROLES]
    attrs = table.attrs
    table = table.merge(known[extra], on=ROLES, how="left", validate="many_to_one")
    table.attrs = attrs
    if key_added is not None:
        screened = kwargs.get("adata")
        (model.adata if screened is None else screened).uns[key_added] = table
    return table


def _read(resource: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Return a table with columns source and target, and what else the resource has."""
    if isinstance(resource, pd.DataFrame):
        table = resource
    elif isinstance(resource, Path) or Path(resource).suffix:
        table = pd.read_csv(Path(resource).expanduser(), sep="\t" if Path(resource).suffix in (".tsv", ".txt") else ",")
    else:
        table = _liana(resource)
    chosen = [next((name for name in names if name in table), None) for names in (_UPSTREAM, _DOWNSTREAM)]
    if None in chosen:
        raise MissingKeyError(
            "The resource needs columns 'ligand' and 'receptor', or 'source' and 'target'; it has "
            f"{[str(column) for column in table]}."
        )
    table = table.reset_index(drop=True)  # tables that were joined may have rows of one name
    ends = table[chosen].set_axis(ROLES, axis=1)
    return ends.join(table.drop(columns=[*{*chosen, *ROLES}], errors="ignore"))


def _liana(name: str) -> pd.DataFrame:
    try:
        import liana  # an optional extra
    except ImportError as error:
        raise ImportError(
            f"resource={name!r} comes with the liana package: `pip install 'sagefm[liana]'`. Or pass a table of pairs."
        ) from error
    return liana.rs.select_resource(name)


def _known(table: pd.DataFrame, model: SAGEFM) -> pd.DataFrame:
    """Return the pairs that can be asked, each once."""
    pairs = table.dropna(subset=ROLES).drop_duplicates(ROLES)
    parts = [[split(str(name), model.genes) for name in pairs[role]] for role in ROLES]
    kept = [
        not shares_a_gene(source, target) and all(part in model.genes for part in source + target)
        for source, target in zip(*parts, strict=True)
    ]
    logger.info(
        f"{sum(kept)} of the resource's {len(pairs)} pairs can be screened: the model knows all of their genes."
    )
    if not any(kept):
        first = pairs.iloc[0].loc[ROLES].tolist() if len(pairs) else "no pair"
        raise ValueError(
            f"The model knows the genes of none of the {len(pairs)} pairs. The resource begins with {first}, the "
            f"model's genes with {list(model.genes[:3])}."
        )
    return pairs[kept].astype(dict.fromkeys(ROLES, str))
