"""In-silico perturbation of known pairs: ligands and receptors, or other upstream and downstream genes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique
from mudata import MuData

from sagefm._errors import MissingKeyError, refuse_unknown
from sagefm._logging import logger
from sagefm.data import refuse_unwritable_key, registered_spots
from sagefm.model import SAGEFM
from sagefm.model.perturbation import ROLES, split

# Columns for upstream and for downstream genes in tables of pairs; the first that exists is used.
_UPSTREAM = ("source_genesymbol", "ligand", "source")
_DOWNSTREAM = ("target_genesymbol", "receptor", "target")


def ligand_receptor_screen(
    model: SAGEFM,
    resource: str | Path | pd.DataFrame = "consensus",
    *,
    resource_name: str | None = None,
    key_added: str | None = "ligand_receptor_screen",
    **kwargs: Any,
) -> pd.DataFrame:
    """Perturb the source of every known pair in the neighbours of each spot, and predict its target in the spot.

    Pairs with a gene that is not in the model, and pairs whose parts overlap, are left out; a log message gives the
    number of remaining pairs. Another gives the number of those without an effect, and why.

    Parameters
    ----------
    model
        A trained model.
    resource
        Name of a resource of the `liana` package, such as `"consensus"` or `"cellphonedb"`; path of a table (CSV, or
        TSV if it ends in `.tsv` or `.txt`); or a table. Its columns are `ligand` and `receptor`, or `source` and
        `target`, or `source_genesymbol` and `target_genesymbol`, as in OmniPath. Tables of transcription factors or
        pathways and their targets are screened in the same way. Complexes are written `"A_B"`. Other columns are kept.
    resource_name
        Which of the resources to use if the table has several, named in its column `resource` as in LIANA's
        `omni_resource.csv`; None uses all of them.
    key_added
        Key in `uns` of the screened AnnData under which the table is stored as well, so that it can be written to a
        file: other objects as text, names of columns without `/`. None stores nothing.
    **kwargs
        Arguments of :meth:`sagefm.SAGEFM.perturb`, for example `groupby`, `n_controls` or `adata`.

    Returns
    -------
    pandas.DataFrame
        The table of :meth:`sagefm.SAGEFM.perturb`, with the column `reason`, which says why a `scaled_effect` is
        missing (genes without counts in the section are named) and is empty where there is one, and the other columns
        of the resource.

    Raises
    ------
    ImportError
        If `resource` is a name and `liana` is not installed.
    KeyError
        If the table has no such columns.
    ValueError
        If no pair has all its genes in the model, or the table has no resource `resource_name`.

    Examples
    --------
    >>> pairs = adata.uns["simulated_tissue"]["interactions"]
    >>> screen = sagefm.tl.ligand_receptor_screen(model, pairs, n_controls=20)
    >>> len(screen) == len(pairs) == len(adata.uns["ligand_receptor_screen"])
    True
    """
    refuse_unwritable_key(key_added, "key_added")
    pairs = _usable(_of_one_resource(_read(resource), resource_name), model)
    table, screened = model.perturb(pairs=pairs[ROLES], **kwargs), kwargs.get("adata")
    table["reason"] = _reasons(table, model, screened)
    added = pairs.loc[:, ~pairs.columns.isin(table.columns.difference(ROLES))]
    merged = table.merge(added, on=ROLES, how="left", validate="many_to_one")
    merged.attrs = table.attrs
    if key_added is not None:
        (model.adata if screened is None else screened).uns[key_added] = _writable(merged)
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


def _of_one_resource(table: pd.DataFrame, name: str | None) -> pd.DataFrame:
    """Return the pairs of the resource called `name`, or all of them with a hint if there are several."""
    if "resource" not in table:
        if name is not None:
            raise MissingKeyError(f"resource_name={name!r} needs a column 'resource'; found {list(table)}.")
        return table
    names = table["resource"].astype(str)
    if name is not None:
        refuse_unknown("resource_name", name, names.unique())
        return table[names == name]
    if (n_found := names.nunique()) > 1:
        logger.info(
            f"The table has {n_found} resources in its column 'resource', and all are used; "
            f"`resource_name={names.iloc[0]!r}` uses one."
        )
    return table


def _usable(table: pd.DataFrame, model: SAGEFM) -> pd.DataFrame:
    """Return the pairs that can be perturbed, without duplicates."""
    pairs = table.dropna(subset=ROLES).astype(dict.fromkeys(ROLES, str)).drop_duplicates(ROLES)
    known = set(model.genes)
    parts = pairs[ROLES].map(lambda name: split(name, known))
    kept = [set(source).isdisjoint(target) and known.issuperset(source + target) for source, target in parts.to_numpy()]
    logger.info(f"{sum(kept)} of the resource's {len(pairs)} pairs are screened: all their genes are in the model.")
    if not any(kept):
        first = pairs.iloc[0].loc[ROLES].tolist() if len(pairs) else "no pair"
        raise ValueError(
            f"None of the {len(pairs)} pairs has all its genes in the model. The resource starts with {first}, the "
            f"model's genes with {list(model.genes[:3])}."
        )
    return pairs[kept]


def _reasons(table: pd.DataFrame, model: SAGEFM, adata: AnnData | MuData | None) -> list[str]:
    """Return why each scaled effect is missing, empty if it is not, and log how many pairs have none."""
    manager = model.get_anndata_manager(model.adata if adata is None else adata, required=True)
    spots = registered_spots(manager, model.module.normalization)
    mean, _ = spots.gene_moments(np.arange(spots.n_obs))
    known, without_counts = set(model.genes), set(model.genes[~(mean > 0)])

    def reason(*names: str) -> str:
        genes = [gene for name in names for gene in split(name, known) if gene in without_counts]
        return f"no counts of {', '.join(genes)}" if genes else "the levels of the source, or the target, do not vary"

    pairs = table.loc[table["scaled_effect"].isna(), ROLES].drop_duplicates()
    reasons = {pair: reason(*pair) for pair in pairs.itertuples(index=False, name=None)}
    if reasons:
        n_without_counts = sum(text.startswith("no counts") for text in reasons.values())
        logger.info(
            f"{len(reasons)} of {len(table[ROLES].drop_duplicates())} pairs have no scaled effect, {n_without_counts} "
            "because a gene has no counts in the section; the column `reason` names it."
        )
    return [reasons.get(pair, "") for pair in table[ROLES].itertuples(index=False, name=None)]


def _writable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy that can be written to h5ad and zarr, whatever its names and values."""
    names = [re.sub(r"[/\\]", "_", str(name)).lstrip("._") or "column" for name in table]
    columns = [_writable_column(column) for _, column in table.items()]
    return pd.concat(columns, axis=1).set_axis(make_index_unique(pd.Index(names)), axis=1)


def _writable_column(column: pd.Series) -> pd.Series:
    """Return numbers as NumPy has them, and anything else as text, as categories if some are missing."""
    if pd.api.types.is_numeric_dtype(column):
        is_plain = isinstance(column.dtype, np.dtype)
        return column if is_plain else pd.Series(column.to_numpy(dtype=float, na_value=np.nan))
    text = column.astype(object).map(str, na_action="ignore")
    return text.astype("category") if text.isna().any() else text
