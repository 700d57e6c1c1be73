"""The report: verdicts, figures and what was run, as Markdown and as one HTML file that needs no network."""

import base64
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from midstate import methods
from midstate.common.files import write_atomically
from midstate.study import tracked, verdicts
from midstate.study.analogy import levels_of_claim
from midstate.study.beside import beside, interval
from midstate.study.caveats import incomplete, mixed_origins
from midstate.study.claims import Claim, read_all, read_claims
from midstate.study.depth import DRAWS
from midstate.study.drawing import Tables
from midstate.study.figures import Drawn, draw_claims
from midstate.study.section import Section
from midstate.study.statistics import seeds_needed
from midstate.study.stray import stray
from midstate.study.tables import read_pilot
from midstate.study.verdicts import Result

TEMPLATES = Path(__file__).parent / "templates"


def write_report(results: Path, claims: list[Claim] | None = None, wandb: str = "off") -> list[Path]:
    """Build claims.csv, figures, REPORT.md and report.html in `results` from its tables; return what was written.

    Args:
        results: holds what `tables.collect` wrote.
        claims: to report on; None: all.
        wandb: offline, online or off: whether the results go to W&B as well, a run and an artifact each claim.
    """
    tables, claims = Tables.read(results), claims or read_all()
    judged = verdicts.judge(claims, tables.runs, read_pilot(results))
    write_claims(judged, results / "claims.csv")
    powerless = {(each.claim, each.overrides) for each in judged if each.verdict == verdicts.NO_POWER}
    figures = draw_claims(claims, tables, results / "figures", powerless)
    sections = [_section(claim, judged, tables, figures, results / "figures") for claim in claims]
    content = {
        "sections": sections,
        "article": figures.get("article"),
        "runs": tables.runs,
        "ran": _what_ran(claims, tables.runs),
        "published": [row for row in methods.methods() if row["Reported"][:3] not in ("-", "see")],
        "stray": stray([*read_all(), *claims], tables),
        "draws": f"{DRAWS:,}",
        "hours": tables.runs.wall_seconds.sum() / 3600 if len(tables.runs) else 0,
    }
    written = [results / "claims.csv"]
    for template, name in (("report.md.j2", "REPORT.md"), ("report.html.j2", "report.html")):
        text = _environment(name.endswith("html"), results).get_template(template).render(content)
        write_atomically(results / name, text.encode())
        written.append(results / name)
    if wandb != "off":
        tracked.log_claims(sections, results, wandb)
    drawn = [*figures.values(), *(each for section in sections for each in section.levels)]
    return [*written, *(figure.path for figure in drawn)]


def readme_table(results: Path) -> str:
    """The verdicts of claims.csv as a Markdown table, one short line a claim."""
    rows = pd.read_csv(results / "claims.csv", dtype={"git": str})
    rows = rows[rows.verdict.notna()]
    lines = ["| claim | says | verdict | effect [95 % interval] | same verdict elsewhere |", "|---|---|---|---|---|"]
    for claim in read_claims():
        cells = ["not run", "", ""]
        if judged := list(rows[rows.claim == claim.claim].itertuples()):
            first, *others = judged
            same = sum(each.verdict == first.verdict for each in others)
            elsewhere = f"{same} of {len(others)}" if others else "not run"
            cells = [f"**{first.verdict}**", f"{interval(first)} {claim.endpoint.unit}", elsewhere]
        lines.append(f"| {' | '.join((claim.claim, claim.short or claim.english.strip(), *cells))} |")
    return "\n".join(lines)


def write_claims(judged: Iterable[Result], path: Path) -> None:
    """Write claims.csv."""
    table = pd.DataFrame([result.row for result in judged], columns=list(verdicts.COLUMNS))
    write_atomically(path, table.to_csv(index=False, float_format="%.6g").encode())


def _section(claim: Claim, judged: list[Result], tables: Tables, figures: dict[str, Drawn], folder: Path) -> Section:
    own = [result for result in judged if (result.claim, result.edition) == (claim.claim, claim.edition)]
    rows = tables.runs[tables.runs.arm.isin(claim.all_arms)]
    digests = {
        tag.partition("-")[2]
        for tags in rows.get("claims", pd.Series(dtype=str)).dropna()
        for tag in tags.split()
        if tag.partition("-")[0] == claim.claim
    }
    primary = [result for result in own if result.verdict]
    return Section(
        claim,
        primary,
        [needed(result, rows) for result in primary],
        [result for result in own if not result.verdict],
        beside(claim, tables),
        figures.get(claim.key),
        incomplete(claim, tables.runs),
        sorted(digests - {claim.digest}),
        mixed_origins(claim, tables.runs),
        levels_of_claim(claim, tables, folder),
    )


def _what_ran(claims: list[Claim], runs: pd.DataFrame) -> list[dict[str, Any]]:
    """One row an arm and cell: seeds, results, sizes."""
    rows = []
    for (arm, overrides), group in runs.groupby(["arm", "overrides"], sort=True):
        rows.append(
            {
                "arm": arm,
                "overrides": overrides,
                "seeds": group.seed.nunique(),
                "claims": " ".join(claim.claim for claim in claims if arm in (*claim.all_arms, *claim.level_arms)),
                "git": " ".join(sorted(group.git.dropna().unique())),
                **{name: group[name].mean() for name in ("top1", "sparsity", "params_sparse", "macs", "wall_seconds")},
            }
        )
    return rows


def _environment(html: bool, results: Path) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=html, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(number=_number, interval=interval, mean=_mean)
    environment.globals.update(
        embed=lambda path: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
        relative=lambda path: path.relative_to(results).as_posix(),
    )
    return environment


def _number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number as it stands in a table; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _mean(each: tuple[float, float, float], seeds: int) -> str:
    """A mean over seeds with its 95 % interval; of one seed, the value."""
    mean, low, high = each
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" if seeds > 1 else f"{mean:+.2f}"


def needed(result: Result, runs: pd.DataFrame) -> str:
    """How many seeds would bring the minimum detectable effect below the SESOI, and what those missing would cost.

    Args:
        result: of a primary endpoint.
        runs: rows of runs.csv of the claim's arms; the cost is that of as many again as `result` has, in hours of
            one process.

    Returns:
        Such as "36 (+1.2 h)"; empty where it is below already.
    """
    measured = result.measured
    if not result.sesoi > 0 or math.isnan(measured.mde) or measured.mde <= result.sesoi:
        return ""
    seeds = seeds_needed(measured.sd, result.sesoi)
    spent = runs.wall_seconds[(runs.overrides == result.overrides) & (runs.seed < measured.seeds)].sum() / 3600
    return f"{seeds} (+{spent / measured.seeds * (seeds - measured.seeds):.1f} h)"
