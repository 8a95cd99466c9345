"""In-silico perturbation of known pairs: ligands and receptors, or other upstream and downstream genes."""

from pathlib import Path
from typing import Any

import pandas as pd

from sagefm._errors import MissingKeyError
from sagefm._logging import logger
from sagefm.model import SAGEFM
from sagefm.model.perturbation import ROLES, split

# Columns for upstream and for downstream genes in tables of pairs; the first that exists is used.
_UPSTREAM = ("source_genesymbol", "ligand", "source")
_DOWNSTREAM = ("target_genesymbol", "receptor", "target")


def ligand_receptor_screen(
    model: SAGEFM,
    resource: str | Path | pd.DataFrame = "consensus",
    *,
    key_added: str | None = "ligand_receptor_screen",
    **kwargs: Any,
) -> pd.DataFrame:
    """Perturb the source of every known pair in the neighbours of each spot, and predict its target in the spot.

    Pairs with a gene that is not in the model, and pairs whose parts overlap, are left out; a log message gives the
    number of remaining pairs.

    Parameters
    ----------
    model
        A trained model.
    resource
        Name of a resource of the `liana` package, such as `"consensus"` or `"cellphonedb"`; path of a table (CSV, or
        TSV if it ends in `.tsv` or `.txt`); or a table. Its columns are `ligand` and `receptor`, or `source` and
        `target`, or `source_genesymbol` and `target_genesymbol`, as in OmniPath. Tables of transcription factors or
        pathways and their targets are screened in the same way. Complexes are written `"A_B"`. Other columns are kept.
    key_added
        Key in `uns` of the screened AnnData under which the table is stored as well; None stores nothing.
    **kwargs
        Arguments of :meth:`sagefm.SAGEFM.perturb`, for example `groupby`, `n_controls` or `adata`.

    Returns
    -------
    pandas.DataFrame
        The table of :meth:`sagefm.SAGEFM.perturb`, with the other columns of the resource.

    Raises
    ------
    ImportError
        If `resource` is a name and `liana` is not installed.
    KeyError
        If the table has no such columns.
    ValueError
        If no pair has all its genes in the model.

    Examples
    --------
    >>> pairs = adata.uns["simulated_tissue"]["interactions"]
    >>> screen = sagefm.tl.ligand_receptor_screen(model, pairs, n_controls=20)
    >>> len(screen) == len(pairs) == len(adata.uns["ligand_receptor_screen"])
    True
    """
    pairs = _usable(_read(resource), model)
    table = model.perturb(pairs=pairs[ROLES], **kwargs)
    added = [column for column in pairs if column not in table or column in ROLES]
    merged = table.merge(pairs[added], on=ROLES, how="left", validate="many_to_one")
    merged.attrs = table.attrs
    if key_added is not None:
        screened = kwargs.get("adata")
        (model.adata if screened is None else screened).uns[key_added] = merged
    return merged


def _read(resource: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Return a table with the columns source and target, and the other columns of the resource."""
    if isinstance(resource, pd.DataFrame):
        table = resource
    elif Path(resource).suffix or isinstance(resource, Path):
        path = Path(resource).expanduser()
        table = pd.read_csv(path, sep="\t" if path.suffix in (".tsv", ".txt") else ",")
    else:
        table = _liana(resource)
    chosen = [next((name for name in names if name in table), None) for names in (_UPSTREAM, _DOWNSTREAM)]
    if None in chosen:
        raise MissingKeyError(
            "The resource needs columns 'ligand' and 'receptor', or 'source' and 'target'; found "
            f"{[str(column) for column in table]}."
        )
    table = table.reset_index(drop=True)  # concatenated tables may have duplicate row names
    return table[chosen].set_axis(ROLES, axis=1).join(table.drop(columns=[*chosen, *ROLES], errors="ignore"))


def _liana(name: str) -> pd.DataFrame:
    try:
        import liana  # an optional extra
    except ImportError as error:
        raise ImportError(
            f"resource={name!r} needs the liana package: `pip install 'sagefm[liana]'`. Or pass a table of pairs."
        ) from error
    return liana.rs.select_resource(name)


def _usable(table: pd.DataFrame, model: SAGEFM) -> pd.DataFrame:
    """Return the pairs that can be perturbed, without duplicates."""
    pairs = table.dropna(subset=ROLES).drop_duplicates(ROLES).astype(dict.fromkeys(ROLES, str))
    parts, known = pairs[ROLES].map(lambda name: split(name, model.genes)), set(model.genes)
    kept = [set(source).isdisjoint(target) and known.issuperset(source + target) for source, target in parts.to_numpy()]
    logger.info(f"{sum(kept)} of the resource's {len(pairs)} pairs can be screened: all their genes are in the model.")
    if not any(kept):
        first = pairs.iloc[0].loc[ROLES].tolist() if len(pairs) else "no pair"
        raise ValueError(
            f"None of the {len(pairs)} pairs has all its genes in the model. The resource starts with {first}, the "
            f"model's genes with {list(model.genes[:3])}."
        )
    return pairs[kept]
