"""HEST-1k, the corpus of the SAGE-FM paper: which sections, and how to get them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sagefm._errors import MissingKeyError
from sagefm._logging import logger

REPOSITORY, METADATA = "MahmoodLab/hest", "HEST_v1_1_0.csv"
LICENCE = "CC BY-NC-SA 4.0"
_NEEDED = {"id", "species", "st_technology", "nb_genes", "spots_under_tissue", "dataset_title", "patient", "organ"}


def hest(
    folder: str | Path,
    *,
    species: str = "Homo sapiens",
    technology: str = "Visium",
    min_genes: int = 10_000,
    organs: Iterable[str] | None = None,
    metadata: str | Path | None = None,
    download: bool = True,
    revision: str | None = None,
) -> pd.DataFrame:
    """Select sections of HEST-1k v1.1 and fetch them from the Hugging Face Hub; by default the corpus of the paper.

    The defaults select 416 sections of 981,074 spots: human, Visium, at least 10,000 genes. HEST-1k is licensed under
    CC BY-NC-SA 4.0, and so not for commercial use; single sections may have stricter terms, in the column
    `source_licence`. Access is granted on its page, https://huggingface.co/datasets/MahmoodLab/hest; then log in by
    `hf auth login`. Files that are in the folder are not fetched again. Only the expression is fetched, no images.

    Parameters
    ----------
    folder
        Where the files are or go: the metadata table, and `st/ID.h5ad` for each section.
    species, technology, min_genes
        Which sections: as in the columns `species`, `st_technology` and `nb_genes` of the metadata.
    organs
        Organs to keep, as in the column `organ`; all by default.
    metadata
        The metadata table, where it is not in `folder`.
    download
        Whether what is not there is fetched, which needs the extra `sagefm[hub]`. Without, nothing is, and the table
        names files that may not be there.
    revision
        Commit or branch of the repository; its newest state by default.

    Returns
    -------
    pandas.DataFrame
        One row for each section, for :class:`sagefm.pretraining.Corpus`: `path`, `sample`, `patient` (with the title
        of the study, since patients are numbered in each; the study alone where the patient is not known), `licence`,
        `source_licence`, `organ`, `n_spots` and `n_genes` as HEST tells them.

    Raises
    ------
    FileNotFoundError
        If the metadata table is not there and nothing may be fetched.
    ImportError
        If something is to be fetched and `huggingface_hub` is not installed.
    KeyError
        If the metadata table lacks a column.
    ValueError
        If no section is like that.
    PermissionError
        If the Hub does not grant access.

    Examples
    --------
    >>> import sagefm
    >>> sections = sagefm.datasets.hest("hest")  # doctest: +SKIP
    >>> corpus = sagefm.pretraining.Corpus(sections, index="hest/index")  # doctest: +SKIP
    """
    folder = Path(folder).expanduser()
    table = folder / METADATA if metadata is None else Path(metadata).expanduser()
    if not table.exists():
        if not download or metadata is not None:
            raise FileNotFoundError(f"{table} is not there; with `download=True` and no `metadata` it is fetched.")
        _fetch(folder, [METADATA], revision)
    selected = select(read_metadata(table), species, technology, min_genes, organs)
    sections = section_table(selected, folder)
    missing = [f"st/{Path(path).name}" for path in sections["path"] if not Path(path).exists()]
    if download and missing:
        logger.info(f"Fetching {len(missing)} sections of HEST-1k; its licence is {LICENCE}.")
        _fetch(folder, missing, revision)
    return sections


def read_metadata(path: Path) -> pd.DataFrame:
    """Read the metadata table of HEST-1k, having checked its columns."""
    table = pd.read_csv(path, encoding="utf-8-sig", dtype={"patient": str})
    if missing := sorted(_NEEDED - set(table)):
        raise MissingKeyError(f"{path} is no metadata table of HEST-1k: it has no columns {missing}.")
    return table


def select(
    metadata: pd.DataFrame, species: str, technology: str, min_genes: int, organs: Iterable[str] | None
) -> pd.DataFrame:
    """Return the rows of the sections asked for."""
    kept = (metadata["species"] == species) & (metadata["st_technology"] == technology)
    kept &= metadata["nb_genes"] >= min_genes
    if organs is not None:
        kept &= metadata["organ"].isin(list(organs))
    if not kept.any():
        raise ValueError(
            f"No section of HEST-1k is {species!r}, {technology!r}, with {min_genes} genes"
            f"{'' if organs is None else f', of {list(organs)}'}. There are species {_values(metadata, 'species')}, "
            f"technologies {_values(metadata, 'st_technology')}, organs {_values(metadata, 'organ')}."
        )
    return metadata[kept].reset_index(drop=True)


def _values(metadata: pd.DataFrame, column: str) -> list[str]:
    return sorted(metadata[column].dropna().unique())


def section_table(selected: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return the selected sections as a table for a corpus."""
    known = selected["patient"].notna()
    study = selected["dataset_title"].astype(str)
    return pd.DataFrame(
        {
            "path": [str(folder / "st" / f"{name}.h5ad") for name in selected["id"]],
            "sample": selected["id"],
            "patient": study.where(~known, study + ": " + selected["patient"].fillna("")),
            "licence": LICENCE,
            "source_licence": selected["license"] if "license" in selected else None,
            "organ": selected["organ"],
            "n_spots": selected["spots_under_tissue"].astype("Int64"),
            "n_genes": selected["nb_genes"].astype("Int64"),
        }
    )


def _fetch(folder: Path, files: list[str], revision: str | None) -> None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError
    except ImportError as error:
        raise ImportError(
            f"Fetching {files[0]!r} of HEST-1k takes huggingface_hub: `pip install 'sagefm[hub]'`."
        ) from error
    try:
        snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=files, local_dir=folder, revision=revision)
    except GatedRepoError as error:
        raise PermissionError(
            f"The Hub does not grant access to {REPOSITORY}: ask for it on "
            f"https://huggingface.co/datasets/{REPOSITORY}, then log in by `hf auth login`."
        ) from error
