"""Files of a finished run that go to W&B: tables, the scheme, and the final weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

TABLES = ("probes", "losses", "sensitivity", "search", "bits")
FILES = (
    *("config.yaml", "summary.json", "metrics.csv", "probes.csv", "losses.csv", "sensitivity.csv", "search.csv"),
    *("bits.csv", "scheme.json"),
)
STAGING = "WANDB_DATA_DIR"
ROWS = 10_000  # that W&B shows of a table; of more every k-th is sent, and the file is whole


def send(run: Any, directory: Path, weights_mb: float) -> None:
    """Send tables and files of a finished run to W&B.

    Args:
        run: wandb's.
        directory: of the finished run.
        weights_mb: the final weights go along where their file is no larger than this.
    """
    with _staged(directory / "wandb"):
        _send(run, directory, weights_mb)


def _send(run: Any, directory: Path, weights_mb: float) -> None:
    import wandb

    run.log({f"tables/{name}": wandb.Table(dataframe=table) for name, table in _tables(directory).items()})
    files = [path for path in (directory / name for name in FILES) if path.is_file()]
    run.log_artifact(_artifact(f"results-{run.id}", "results", files))
    weights = directory / "checkpoints" / "final.pt"
    if weights.stat().st_size <= weights_mb * 1e6:
        run.log_artifact(_artifact(f"weights-{run.id}", "model", [weights]))


@contextmanager
def _staged(folder: Path) -> Iterator[None]:
    """Let W&B keep what it is to send beside the run, unless told where: a home may not be there to be written."""
    before = os.environ.get(STAGING)
    os.environ[STAGING] = before or str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ[STAGING]


def _tables(directory: Path) -> dict[str, pd.DataFrame]:
    """The tables that have rows, thinned to what W&B shows."""
    files = {name: directory / f"{name}.csv" for name in TABLES}
    found = {name: pd.read_csv(path) for name, path in files.items() if path.is_file()}
    return {name: table.iloc[:: 1 + (len(table) - 1) // ROWS] for name, table in found.items() if len(table)}


def _artifact(name: str, kind: str, files: list[Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for path in files:
        artifact.add_file(str(path), policy="immutable")  # read where it lies, not copied first
    return artifact
