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
ROWS = 10_000  # W&B shows no more rows; of longer tables every k-th row is logged, and the CSV file is sent whole


def send(run: Any, directory: Path, weights_mb: float) -> None:
    """Send tables and files of a finished run to W&B.

    Args:
        run: wandb's run.
        directory: of the finished run.
        weights_mb: final.pt is sent if it has at most so many megabytes (10^6 bytes).
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
    """Let W&B stage uploads in `folder` unless WANDB_DATA_DIR is set: the home directory may not be writable."""
    before = os.environ.get(STAGING)
    os.environ[STAGING] = before or str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ[STAGING]
        else:
            os.environ[STAGING] = before


def _tables(directory: Path) -> dict[str, pd.DataFrame]:
    """The tables that have rows, thinned to at most ROWS rows."""
    files = {name: directory / f"{name}.csv" for name in TABLES}
    found = {name: pd.read_csv(path) for name, path in files.items() if path.is_file()}
    return {name: table.iloc[:: 1 + (len(table) - 1) // ROWS] for name, table in found.items() if len(table)}


def _artifact(name: str, kind: str, files: list[Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for path in files:
        artifact.add_file(str(path), policy="immutable")  # read in place, without a staged copy
    return artifact
