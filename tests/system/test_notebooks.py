"""Every notebook runs from top to bottom on the committed results, and shows its tables and figures."""

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_says_what_its_committed_outputs_say(path):
    """`jupyter execute --inplace notebooks/*.ipynb` renews them."""
    notebook = nbformat.read(path, as_version=4)
    committed = said(notebook)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert said(notebook) == committed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_reader_without_python_sees_figures_and_tables(path):
    outputs = outputs_of(nbformat.read(path, as_version=4))
    for kind in ("image/png", "text/html", "text/markdown"):
        assert any(kind in output.get("data", {}) for output in outputs), kind
    assert path.stat().st_size < 500_000
    assert not any(output.output_type in ("stream", "error") for output in outputs)  # such as a warning


def outputs_of(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def said(notebook):
    """Sentences and tables, without figures."""
    data = [output.get("data", {}) for output in outputs_of(notebook)]
    return [each.get("text/markdown") or each.get("text/html") for each in data if "image/png" not in each]
