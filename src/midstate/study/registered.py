"""Claims and pilot of the second edition as tables for readers: `python -m midstate.study.registered` writes them."""

from midstate.common import files
from midstate.common.project import CONF
from midstate.study.claims import PILOT, PLANNED, Claim, read_claims
from midstate.study.endpoints import Gate
from midstate.study.tables import read_pilot
from midstate.study.verdicts import gates_of

PAGE = CONF.parent / "docs" / "preregistration.md"
RESULTS = CONF.parent / "results"


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
            _seeds(claim.seeds(PLANNED)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gates() -> str:
    """A row a gate that the pilot decides: what is asked, what came out."""
    pilot = read_pilot(RESULTS)
    lines = ["| gate | of | asked | pilot | seeds | |", "|---|---|---|---|---|---|"]
    found: dict[tuple[str, ...], list[str]] = {}
    for claim in read_claims():
        for each in gates_of(claim, pilot.iloc[:0], pilot):
            if each.gate.decided == PILOT:
                value = f"{each.value:.2f} {each.gate.endpoint.unit}" if each.seeds else "–"
                row = (each.gate.endpoint.name, each.gate.bound, value, str(each.seeds), each.state)
                found.setdefault(row, []).append(claim.claim)
    lines += [f"| {row[0]} | {', '.join(names)} | {' | '.join(row[1:])} |" for row, names in found.items()]
    return "\n".join(lines)


def _expected(claim: Claim) -> str:
    if claim.endpoint.test == "equivalence":
        scale = claim.endpoint.scaled_by
        of = next(each.endpoint.name for each in claim.gate if each.endpoint.contrast == scale["contrast"])
        return f"within the margin: SESOI, or {scale['share']:g} of {of} if that is smaller"
    return claim.endpoint.expected


def _gate(gate: Gate) -> str:
    own = "" if gate.decided == PILOT else " (by the study's rows)"
    return f"{gate.endpoint.name}: {gate.bound} {gate.endpoint.unit}{own}"


def _seeds(seeds: range) -> str:
    return f"{seeds[0]} to {seeds[-1]}"


if __name__ == "__main__":
    files.put(PAGE, "registered", table())
    files.put(PAGE, "gates", gates())
