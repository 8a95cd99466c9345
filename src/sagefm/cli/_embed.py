"""What `sagefm embed` does: many sections, each a job of its own, in this process or on a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import h5py
import numpy as np

from sagefm._errors import SECTION_ERRORS
from sagefm.data import (
    SetupKeys,
    checked_totals,
    checksum_of,
    graph_of,
    read_section,
    read_whole,
    section_spots,
    sections_of,
)
from sagefm.model import SAGEFM
from sagefm.module import OnePass
from sagefm.weights import CARD, find_weights, read_card

ABOUT = "sagefm"  # key in uns that tells what an embedding was made of


class Outcome(NamedTuple):
    """What came of one section: `"embedded"`, `"done before"` or `"failed"`, with the file or the reason."""

    section: str
    status: str
    detail: str


def embed_sections(
    model: str | Path, sections: Iterable[str | Path], out: Path, keys: SetupKeys, key_added: str, dask: str | None
) -> Iterator[Outcome]:
    """Embed sections one by one, or on the Dask cluster at the address `dask`; yield what came of each as it comes."""
    out = out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    folder = str(find_weights(model).absolute())
    paths = [Path(section).expanduser().absolute() for section in sections]
    _refuse_same_names(paths)
    jobs = [(folder, path, out / f"{path.stem}.h5ad", keys, key_added) for path in paths]
    if dask is None:
        yield from (embed_section(*job) for job in jobs)
        return
    from distributed import Client, as_completed

    with Client(dask) as client:
        futures = client.map(embed_section, *zip(*jobs, strict=True), pure=False)
        section_of = {future.key: path for future, path in zip(futures, paths, strict=True)}
        for future in as_completed(futures):
            lost = future.exception()  # a worker that died; what the section itself raises is an outcome
            yield Outcome(str(section_of[future.key]), "failed", repr(lost)) if lost else future.result()


def _refuse_same_names(paths: list[Path]) -> None:
    names = [path.stem for path in paths]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ValueError(f"Several sections are called {doubles[0]!r} and would write one file; embed them apart.")


def embed_section(folder: str, path: Path, target: Path, keys: SetupKeys, key_added: str) -> Outcome:
    """Write the section with its embedding, unless that is done; never raise for what is wrong with the section."""
    try:
        about = {"weights_sha256": read_card(Path(folder) / CARD)["sha256"], "section_sha256": checksum_of(path)}
        if _is_done(target, about, key_added):
            return Outcome(str(path), "done before", str(target))
        latent = _embed(_model(folder), path, keys)
        adata = read_whole(path)
        adata.obsm[key_added] = _with_gaps(latent, adata, keys.layer)
        adata.uns[ABOUT] = about
        aside = target.with_name(f".{os.getpid()}-{target.name}")
        adata.write_h5ad(aside, compression="gzip")
        os.replace(aside, target)
    except SECTION_ERRORS as error:
        return Outcome(str(path), "failed", f"{type(error).__name__}: {error}")
    return Outcome(str(path), "embedded", str(target))


def _is_done(target: Path, about: dict[str, str], key_added: str) -> bool:
    if not target.exists():
        return False
    with h5py.File(target, "r") as file:
        written = {name: file[f"uns/{ABOUT}/{name}"].asstr()[()] for name in about if f"uns/{ABOUT}/{name}" in file}
        return written == about and f"obsm/{key_added}" in file


@lru_cache(maxsize=1)
def _model(folder: str) -> SAGEFM:
    return SAGEFM.from_pretrained(folder)


def _embed(model: SAGEFM, path: Path, keys: SetupKeys) -> np.ndarray:
    """Return the latent representation of the spots that have counts, (spots, latent), without scvi-tools' register."""
    section = read_section(path, keys)
    checked_totals(section.X, "the matrix of counts")
    graph, _ = graph_of(section, keys)
    spots = section_spots(section, graph, sections_of(section, keys), model.genes, model.module.normalization)
    return OnePass(model.module, spots).latent(np.arange(spots.n_obs)).float().cpu().numpy()


def _with_gaps(latent: np.ndarray, adata: ad.AnnData, layer: str | None) -> np.ndarray:
    """Put NaN where a spot has no counts."""
    counts = adata.X if layer is None else adata.layers[layer]
    every = np.full((adata.n_obs, latent.shape[1]), np.nan, dtype=np.float32)
    every[np.asarray(counts.sum(axis=1)).ravel() != 0] = latent
    return every
