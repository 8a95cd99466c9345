"""The package as it is released: what is in it, its metadata, and its entry in the list of the ecosystem."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest
import yaml

from sagefm.weights import WEIGHTS, packaged_weights

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist, built as for a release but without the network."""
    for tool in ("build", "hatchling", "twine"):
        pytest.importorskip(tool, reason="the tools for a release come with the extra `dev`")
    out = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def run(*arguments: object, **options: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    package = {name for name in names if PurePosixPath(name).parts[0] == "sagefm"}
    source = [path for path in (ROOT / "src/sagefm").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert package == {path.relative_to(ROOT / "src").as_posix() for path in source}
    weights = {f"sagefm/weights/{name}/{WEIGHTS}" for name in packaged_weights()}
    assert len(weights) == 2 and weights | {"sagefm/py.typed"} <= package
    folder = f"sagefm-{PROJECT['version']}.dist-info"
    rest = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert names - package == {f"{folder}/{file}" for file in rest}


def test_the_sdist_holds_what_is_needed_to_test_and_document_it(built):
    with tarfile.open(built[1]) as sdist:
        parts = [PurePosixPath(name).parts[1:] for name in sdist.getnames()]
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "src", "tests", "docs"} <= {
        part[0] for part in parts if part
    }
    assert built[1].stat().st_size < 100e6  # the limit of PyPI


def test_metadata_is_valid_and_names_the_release(built):
    run("-m", "twine", "check", "--strict", *built)
    with zipfile.ZipFile(built[0]) as wheel:
        metadata = message_from_bytes(wheel.read(f"sagefm-{PROJECT['version']}.dist-info/METADATA"))
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_the_wheel_can_be_installed_and_run(built, tmp_path):
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    run("-m", "pip", "install", *options, "--target", tmp_path / "installed", built[0])
    code = "import sagefm\nfrom sagefm.cli._app import app\nprint(sagefm.__file__)\napp(['--version'])"
    shown = run("-c", code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")})
    assert shown.split() == [str(tmp_path / "installed" / "sagefm" / "__init__.py"), PROJECT["version"]]


def test_the_entry_in_the_list_of_the_ecosystem_agrees_with_the_package():
    entry = yaml.safe_load((ROOT / "docs/meta.yaml").read_text())
    assert entry["name"] == entry["install"]["pypi"] == PROJECT["name"]
    assert entry["license"] == PROJECT["license"]
    urls = PROJECT["urls"]
    assert (entry["project_home"], entry["documentation_home"]) == (urls["Source"], urls["Documentation"])
    assert entry["publications"][0] in (ROOT / "CITATION.cff").read_text()
    # What the list requires, and that it reads the version from the registry.
    assert {"description", "tags", "primary_category", "language", "category"} <= set(entry)
    assert "version" not in entry and len(entry["tags"]) <= 10


def test_the_tutorials_of_the_entry_exist():
    entry = yaml.safe_load((ROOT / "docs/meta.yaml").read_text())
    page = entry["tutorials_home"].removeprefix(f"{entry['documentation_home']}/page/").removesuffix(".html")
    assert list((ROOT / "docs").glob(f"{page}.*")) or list(ROOT.glob(f"{page}.*"))
