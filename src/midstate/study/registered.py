"""The claims of the second edition as a table for readers; `python -m midstate.study.registered` renews the page."""

from midstate.common import files
from midstate.common.project import CONF
from midstate.study.claims import Claim, read_claims
from midstate.study.endpoints import Gate

PAGE = CONF.parent / "docs" / "preregistration.md"


def table() -> str:
    """A row a claim: what the article says, the primary endpoint with its sign and SESOI, the gate, the seeds."""
    lines = [
        "| claim | the article | primary endpoint | expected | SESOI | gate | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in read_claims():
        cells = (
            f"[{claim.claim}](../conf/claim/{claim.claim.lower()}.yaml)",
            claim.article,
            claim.endpoint.name,
            _expected(claim),
            f"{claim.endpoint.sesoi:g} {claim.endpoint.unit}",
            "; ".join(map(_gate, claim.gate)),
            _seeds(claim.seeds("full")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _expected(claim: Claim) -> str:
    if claim.endpoint.test == "equivalence":
        return f"within the margin: SESOI, or {claim.endpoint.scaled_by['share']:g} of 4:16 - 2:16 if that is smaller"
    return claim.endpoint.expected


def _gate(gate: Gate) -> str:
    own = "" if gate.decided == "pilot" else " (by the study's rows)"
    return f"{gate.endpoint.name}: {gate.bound} {gate.endpoint.unit}{own}"


def _seeds(seeds: range) -> str:
    return f"{seeds[0]} to {seeds[-1]}"


if __name__ == "__main__":
    files.put(PAGE, "registered", table())
