"""The runs of a sweep: each job writes a note of its run's directory, and the main process reads all at the end."""

from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from midstate.common.files import write_atomically


def note(directory: Path) -> None:
    """In a job of a sweep, write a note of the run's directory into the sweep's folder; else do nothing."""
    hydra = HydraConfig.get()
    identity = hydra.callbacks.get("sweep", {}).get("identity") if hydra.mode == RunMode.MULTIRUN else None
    if identity:
        with suppress(OSError):  # the run itself says what is wrong with the disk
            write_atomically(notes_of(hydra.sweep.dir, identity) / f"{hydra.job.num:06}", str(directory).encode())


def noted(folder: Path) -> list[Path]:
    """Directories of a sweep's runs, each once, in the order of its jobs."""
    return list(dict.fromkeys(Path(path.read_text()) for path in sorted(folder.glob("[0-9]*"))))


def notes_of(sweep_dir: str, identity: str) -> Path:
    """Folder in which the jobs of a sweep note their run directories."""
    return Path(sweep_dir, f".runs-{identity}")
