"""Execute the tutorials on real sections: `tutorials/NAME.py` (percent format) becomes `tutorials/NAME.ipynb`.

`make tutorials` runs this. The sections are read from the folder `SAGEFM_DATA`, or else downloaded by the tutorials.
"""

import os
import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode, write
from PIL import Image

TUTORIALS = Path(__file__).parents[1] / "tutorials"


def execute(path: Path) -> None:
    """Run a tutorial from top to bottom and store it with its outputs."""
    print(f"==> {path.name}", flush=True)
    notebook = jupytext.read(path)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    for number, cell in enumerate(notebook.cells):
        clean(cell, number)
    write(notebook, path.with_suffix(".ipynb"))


def clean(cell: NotebookNode, number: int) -> None:
    """Drop what is not for readers, or differs between runs: logs, progress, random names of cells."""
    cell.id = f"cell-{number}"
    cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    if cell.cell_type == "code":
        cell.outputs = [output for output in cell.outputs if not is_log(output)]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])


def is_log(output: NotebookNode) -> bool:
    """Return whether an output is a warning, progress, or a log message (which rich colours)."""
    shown = output.get("text", "") + output.get("data", {}).get("text/html", "")
    return output.get("name") == "stderr" or "\x1b[" in shown or "<pre style" in shown


def smaller(png: str) -> str:
    """Return a figure, encoded in base 64, with at most 900 pixels in width and 128 colours."""
    image = Image.open(BytesIO(b64decode(png))).convert("RGB")
    image.thumbnail((900, 3000))
    file = BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
    return b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    os.environ["SAGEFM_DATA"] = str(Path(os.environ.get("SAGEFM_DATA", "../shared/data")).resolve())
    for name in sys.argv[1:] or sorted(path.stem for path in TUTORIALS.glob("*.py")):
        execute(TUTORIALS / f"{name}.py")
