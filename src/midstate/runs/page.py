"""report.html of a run: its result, pictures, layers and configuration, in one file that needs no network."""

import base64
import shlex
from pathlib import Path
from typing import Any

from midstate.common.files import write_atomically
from midstate.runs.report import result_lines

NAME = "report.html"  # in the run's directory
CAPTIONS = {
    "accuracy": "Top-1 at the end of each epoch, on training and validation images; top-1 lost at each jump to a new "
    "state, on validation images; share of the weights in scope that are in use.",
    "kept_by_depth": "Weights of each layer in scope and how many of them are kept.",
    "schedule": "Progress along the path from dense to the target, and the kept share that it led to.",
}


def write_page(directory: Path, summary: dict[str, Any], title: str) -> None:
    """Write report.html of a finished run from its summary, figures and configuration."""
    import jinja2  # imported only when a page is written

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    typed = summary.get("overrides")
    page = environment.get_template("run.html.j2").render(
        title=title,
        facts=[line for line in result_lines(summary) if line[0] != "typed"],  # shown as `command` instead
        command=None if typed is None else shlex.join(["python", "train.py", *typed]),
        figures=[
            (name, caption, _embedded(directory / "figures" / f"{name}.svg")) for name, caption in CAPTIONS.items()
        ],
        layers=summary["layers"],
        config=(directory / "config.yaml").read_text(encoding="utf-8"),
    )
    write_atomically(directory / NAME, page.encode(errors="surrogateescape"))  # keeps undecodable bytes of paths


def _embedded(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
