"""Run and time each method in its own process and environment; results are cached, so scoring can be repeated."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
from _protocol import HERE, METHODS, PROTOCOL


@dataclass
class Run:
    """The run of one method on one data set with one seed: its cost, or a note on why it has no result."""

    dataset: str
    method: str
    seed: int
    seconds: float = np.nan
    cpu_seconds: float = np.nan
    peak_mib: float = np.nan
    n_numbers: int = 0
    note: str = ""


class Representations:
    """Representations of data sets by methods, cached in `folder`.

    Parameters
    ----------
    folder
        Folder for inputs, results and costs.
    environments
        Folder with the environments of the other methods.
    fresh
        Methods to run again even if there is a cached result.
    """

    def __init__(self, folder: Path, environments: Path, fresh: set[str]) -> None:
        self._folder, self._environments, self._fresh = folder, environments, fresh
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, dataset: str, given: ad.AnnData, method: str, seed: int) -> tuple[np.ndarray | None, Run]:
        """Return the result of a method (None if it failed) and the record of its run."""
        target = self._folder / f"{dataset}__{method}__{seed}.npy"
        account = target.with_suffix(".json")
        if method in self._fresh or not account.exists():
            target.unlink(missing_ok=True)
            account.write_text(json.dumps(asdict(self._run(dataset, given, method, seed, target))))
        run = Run(**json.loads(account.read_text()))
        return (np.load(target) if target.exists() else None), run

    def _run(self, dataset: str, given: ad.AnnData, method: str, seed: int, target: Path) -> Run:
        run, entry = Run(dataset, method, seed), METHODS[method]
        python = self._python(entry.get("environment"))
        if not python.exists():
            run.note = f"no environment {entry['environment']!r}: environments/make.sh makes it"
            return run
        source = self._folder / f"{dataset}.h5ad"
        if not source.exists():
            given.write_h5ad(source)
        options = json.dumps(entry.get("options", {}))
        command = [python, "-m", "_worker", entry["module"], options, source, target, seed]
        print(f"{time.strftime('%H:%M:%S')} {dataset} {method} seed {seed}", flush=True)
        code, output, errors = _ended([str(part) for part in command])
        if code == 0:
            run = replace(run, **json.loads(output.strip().splitlines()[-1]))
        else:
            run.note = (errors.strip().splitlines() or [f"ended with {code}"])[-1][:300]
            print(errors[-3000:], file=sys.stderr)
        return run

    def _python(self, environment: str | None) -> Path:
        return Path(sys.executable) if environment is None else self._environments / environment / "bin" / "python"


def _ended(command: list[str]) -> tuple[int, str, str]:
    """Run a command until it ends or exceeds the time limit; return exit code, output and errors."""
    limit = PROTOCOL["representations"]["time_limit_s"]
    try:
        process = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return 1, "", f"took longer than {limit} s"
    return process.returncode, process.stdout, process.stderr
