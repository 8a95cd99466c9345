"""HEST-1k, the corpus of the SAGE-FM paper: select and download sections."""

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
    """Select sections of HEST-1k v1.1 and download them from the Hugging Face Hub; by default the corpus of the paper.

    The defaults select 416 sections with 981,074 spots in total: human, Visium, at least 10,000 genes. HEST-1k is
    licensed under CC BY-NC-SA 4.0, so commercial use is not allowed; single sections may have stricter terms, see the
    column `source_licence`. Request access at https://huggingface.co/datasets/MahmoodLab/hest, then log in with
    `hf auth login`. Files that are already in the folder are not downloaded again. Only the expression data are
    downloaded, no images.

    Parameters
    ----------
    folder
        Folder of the files: the metadata table, and `st/ID.h5ad` for each section.
    species, technology, min_genes
        Sections to select, by the columns `species`, `st_technology` and `nb_genes` of the metadata.
    organs
        Organs to select, by the column `organ`; all by default.
    metadata
        The metadata table, if it is not in `folder`.
    download
        Whether to download missing files, which requires the extra `sagefm[hub]`. With False, the table may name files
        that do not exist.
    revision
        Commit or branch of the repository; its latest state by default.

    Returns
    -------
    pandas.DataFrame
        One row per section, for :class:`sagefm.pretraining.Corpus`: `path`, `sample`, `patient` (with the title of the
        study, because patients are numbered within studies; the study alone if the patient is unknown), `licence`,
        `source_licence`, `organ`, and `n_spots` and `n_genes` according to HEST.

    Raises
    ------
    FileNotFoundError
        If the metadata table does not exist and must not be downloaded.
    ImportError
        If something is to be downloaded and `huggingface_hub` is not installed.
    KeyError
        If the metadata table lacks a column.
    ValueError
        If no section matches the selection.
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
            raise FileNotFoundError(f"{table} does not exist; use `download=True` without `metadata` to download it.")
        _download(folder, [METADATA], revision)
    sections = _for_corpus(_select(read_metadata(table), species, technology, min_genes, organs), folder)
    missing = [f"st/{Path(path).name}" for path in sections["path"] if not Path(path).exists()]
    if download and missing:
        logger.info(f"Downloading {len(missing)} sections of HEST-1k; its licence is {LICENCE}.")
        _download(folder, missing, revision)
    return sections


def read_metadata(path: Path) -> pd.DataFrame:
    """Read the metadata table of HEST-1k and check its columns."""
    table = pd.read_csv(path, encoding="utf-8-sig", dtype={"patient": str})
    if missing := sorted(_NEEDED - set(table)):
        raise MissingKeyError(f"{path} is not a metadata table of HEST-1k: it has no columns {missing}.")
    return table


def _select(
    metadata: pd.DataFrame, species: str, technology: str, min_genes: int, organs: Iterable[str] | None
) -> pd.DataFrame:
    selected = metadata.query("species == @species and st_technology == @technology and nb_genes >= @min_genes")
    if organs is not None:
        organs = list(organs)
        selected = selected[selected["organ"].isin(organs)]
    if selected.empty:
        found = [sorted(metadata[key].dropna().unique()) for key in ("species", "st_technology", "organ")]
        raise ValueError(
            f"HEST-1k has no section with species={species!r}, technology={technology!r}, min_genes={min_genes} and "
            f"organs={organs}. It has the species {found[0]}, technologies {found[1]} and organs {found[2]}."
        )
    return selected.reset_index(drop=True)


def _for_corpus(selected: pd.DataFrame, folder: Path) -> pd.DataFrame:
    study = selected["dataset_title"].astype(str)
    return pd.DataFrame(
        {
            "path": [str(folder / "st" / f"{name}.h5ad") for name in selected["id"]],
            "sample": selected["id"],
            "patient": (study + ": " + selected["patient"]).fillna(study),
            "licence": LICENCE,
            "source_licence": selected.get("license"),
            "organ": selected["organ"],
            "n_spots": selected["spots_under_tissue"].astype("Int64"),
            "n_genes": selected["nb_genes"].astype("Int64"),
        }
    )


def _download(folder: Path, files: list[str], revision: str | None) -> None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError
    except ImportError as error:
        raise ImportError(f"Downloading {files[0]} requires huggingface_hub: `pip install 'sagefm[hub]'`.") from error
    try:
        snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=files, local_dir=folder, revision=revision)
    except GatedRepoError as error:
        raise PermissionError(
            f"The Hub does not grant access to {REPOSITORY}: request access at "
            f"https://huggingface.co/datasets/{REPOSITORY}, then log in with `hf auth login`."
        ) from error
