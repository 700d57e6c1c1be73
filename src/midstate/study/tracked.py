"""The results of claims on W&B: a run each, in the group of its claim, with tables and figure as an artifact."""

from collections.abc import Iterable
from pathlib import Path

from midstate.study.section import Section

PROJECT = "midstate"


def log_claims(sections: Iterable[Section], results: Path, mode: str, directory: Path = Path("outputs")) -> None:
    """Log every claim with a verdict.

    Args:
        sections: of the report.
        results: holds the tables.
        mode: offline or online.
        directory: where W&B writes.
    """
    import wandb

    for section in sections:
        if not section.primary:
            continue
        claim = section.claim
        settings = wandb.Settings(reinit="finish_previous", console="off", silent=True)
        run = wandb.init(
            project=PROJECT, group=claim.key, job_type="report", name=f"{claim.key} {claim.title}", mode=mode,
            dir=str(directory.absolute()), config={"digest": claim.digest}, settings=settings,
        )  # fmt: skip
        rows = [result.row for result in (*section.primary, *section.others)]
        run.log({"results": wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})
        run.summary["verdict"] = section.verdict
        artifact = wandb.Artifact(f"claim-{claim.key}", type="claim")
        for name in ("runs.csv", "claims.csv", "REPORT.md"):
            if (results / name).is_file():  # a gate that the pilot does not meet decides without runs
                artifact.add_file(str(results / name))
        if section.figure:
            run.log({"figure": wandb.Image(str(section.figure.path))})
            artifact.add_file(str(section.figure.path))
            artifact.add_file(str(section.figure.path.with_suffix(".pdf")))
        run.log_artifact(artifact)
        run.finish()
