"""Results of claims on W&B, offline."""

import pandas as pd
import pytest
from made_up import write

from midstate.study.claims import read_claims
from midstate.study.report import write_report


@pytest.mark.slow
def test_a_claim_that_the_pilot_decides_is_logged_without_a_table_of_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "runs.csv").unlink()
    pilot = pd.read_csv("pilot.csv")
    pilot.loc[pilot.arm == "fashion/nm_1of16", "top1"] += 4  # 4:16 - 1:16 is 1.5 points
    pilot.to_csv("pilot.csv", index=False)
    write_report(tmp_path, read_claims(["C5"]), "offline")
    (logged,) = tmp_path.glob("outputs/wandb/offline-run-*/run-*.wandb")
    assert b"claim-c5" in logged.read_bytes()
