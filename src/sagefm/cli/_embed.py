"""`sagefm embed`: embed sections one by one, in this process or on a Dask cluster."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from rich.console import Console

from sagefm import __version__
from sagefm._errors import SECTION_ERRORS
from sagefm.cli._output import say
from sagefm.data import SetupKeys, checked_totals, checksum_of, graph_of, read_section, read_whole, section_spots
from sagefm.model import SAGEFM
from sagefm.module import OnePass
from sagefm.weights import find_weights, read_card

ABOUT = "sagefm"  # key in uns of what an embedding was computed from


class Outcome(NamedTuple):
    """Outcome of one section: `"embedded"`, `"done before"` or `"failed"`, with the file or the reason."""

    section: str
    status: str
    detail: str


def run(
    model: str | Path,
    sections: Iterable[str | Path],
    out: Path,
    keys: dict[str, Any],
    key_added: str,
    dask: str | None,
    console: Console,
) -> int:
    """Embed sections in turn, or on the Dask cluster at the address `dask`; return how many failed."""
    out = out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    folder = str(find_weights(model).absolute())
    paths = [Path(section).expanduser().absolute() for section in sections]
    names = [path.stem for path in paths]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Several sections would be written to {duplicates[0]}.h5ad; use separate folders.")
    jobs = [(folder, path, out / f"{path.stem}.h5ad", SetupKeys(**keys), key_added) for path in paths]
    n_failed = 0
    for outcome in (embed_section(*job) for job in jobs) if dask is None else _on_dask(dask, jobs):
        say(console, f"{outcome.status}: {outcome.section}: {outcome.detail}")
        n_failed += outcome.status == "failed"
    return n_failed


def _on_dask(address: str, jobs: list[tuple]) -> Iterator[Outcome]:
    from distributed import Client, as_completed

    with Client(address) as client:
        futures = client.map(embed_section, *zip(*jobs, strict=True), pure=False)
        section_of = {future.key: str(job[1]) for future, job in zip(futures, jobs, strict=True)}
        for future in as_completed(futures):
            lost = future.exception()  # a worker that died; errors of the section itself are outcomes
            yield Outcome(section_of[future.key], "failed", repr(lost)) if lost else future.result()


def embed_section(folder: str, path: Path, target: Path, keys: SetupKeys, key_added: str) -> Outcome:
    """Write the section with its embedding, unless that is done; errors of the section are not raised."""
    try:
        about = _about(folder, path, keys)
        if _is_done(target, about, key_added):
            return Outcome(str(path), "done before", str(target))
        latent = _embed(_model(folder), path, keys)
        adata = read_whole(path)
        # Spots without counts have no embedding.
        has_counts = np.asarray((adata.layers[keys.layer] if keys.layer else adata.X).sum(axis=1)).ravel() != 0
        adata.obsm[key_added] = np.full((adata.n_obs, latent.shape[1]), np.nan, dtype=np.float32)
        adata.obsm[key_added][has_counts] = latent
        adata.uns[ABOUT] = about
        temporary = target.with_name(f".{os.getpid()}-{target.name}")
        adata.write_h5ad(temporary, compression="gzip")
        os.replace(temporary, target)
    except SECTION_ERRORS as error:
        return Outcome(str(path), "failed", f"{type(error).__name__}: {error}")
    return Outcome(str(path), "embedded", str(target))


def _about(folder: str, path: Path, keys: SetupKeys) -> dict[str, str]:
    """Return what an embedding depends on: the weights, the file of the section, the setup keys and the version."""
    checksums = {"weights_sha256": read_card(Path(folder))["sha256"], "section_sha256": checksum_of(path)}
    return checksums | {"setup": json.dumps(asdict(keys)), "version": __version__}


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
    """Return the latent representation of the spots that have counts, (spots, latent)."""
    section = read_section(path, keys)
    checked_totals(section.X, "the matrix of counts")
    graph, _ = graph_of(section, keys)
    spots = section_spots(section, graph, keys, model.genes, model.module.normalization)
    return OnePass(model.module, spots).latent(np.arange(spots.n_obs)).float().cpu().numpy()
