"""The report: verdicts, figures and what was run, as Markdown and as one HTML file that needs no network."""

import base64
import math
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from midstate import methods
from midstate.common.files import write_atomically
from midstate.study import costs, tracked, verdicts
from midstate.study.answer import answer, remedy, words
from midstate.study.answer_figure import draw_answer
from midstate.study.beside import interval
from midstate.study.claims import Claim, read_all
from midstate.study.depth import DRAWS
from midstate.study.drawing import Tables
from midstate.study.figures import draw_claims
from midstate.study.section import deciding, is_of, section
from midstate.study.stray import stray
from midstate.study.tables import read_pilot
from midstate.study.verdicts import Result

TEMPLATES = Path(__file__).parent / "templates"


def write_report(results: Path, claims: list[Claim] | None = None, wandb: str = "off") -> list[Path]:
    """Build claims.csv, figures, REPORT.md and report.html in `results` from its tables; return what was written.

    Args:
        results: holds what `tables.collect` wrote.
        claims: to report on; None: all, with the answer that follows from them.
        wandb: offline, online or off: whether the results go to W&B as well, a run and an artifact each claim.
    """
    tables, pilot, folder = Tables.read(results), read_pilot(results), results / "figures"
    whole, claims = claims is None, claims or read_all()
    judged = verdicts.judge(claims, tables.runs, pilot)
    write_claims(judged, results / "claims.csv")
    decided = {c.key: deciding(c, [each for each in judged if is_of(each, c)]) for c in claims}
    undecided = [c for c in claims if c.edition > 1 and not decided[c.key]]
    decided = {key: found for key, found in decided.items() if found and not found.by_pilot}
    figures = draw_claims(claims, tables, folder, decided)
    sections = [section(claim, judged, tables, pilot, figures.get(claim.key), folder) for claim in claims]
    schemes = costs.schemes((c for c in claims if c.edition > 1 and c.key in decided), tables.runs) if whole else []
    if schemes:
        figures["answer"] = draw_answer(schemes, folder)
    content = {
        "words": words(),
        "answer": answer([each.row for each in judged]) if whole else "",
        "remedy": remedy([each.row for each in judged]) if whole else "",
        "figure": figures.get("answer"),
        "schemes": schemes,
        "diverged": sorted({arm for each in sections for arm in each.diverged}),
        "sections": [each for each in sections if each.claim.edition > 1],
        "first": [each for each in sections if each.claim.edition == 1],
        "article": figures.get("article"),
        "runs": tables.runs,
        "ran": _what_ran(claims, tables.runs, {arm for each in undecided for arm in _compared_top1(each)}),
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


def write_claims(judged: Iterable[Result], path: Path) -> None:
    """Write claims.csv."""
    table = pd.DataFrame([result.row for result in judged], columns=list(verdicts.COLUMNS))
    write_atomically(path, table.to_csv(index=False, float_format="%.6g").encode())


def _compared_top1(claim: Claim) -> set[str]:
    """Arms of which a claim's endpoints compare the top-1."""
    return {arm for endpoint in claim.endpoints if endpoint.value == "top1" for arm in endpoint.arms}


def _what_ran(claims: list[Claim], runs: pd.DataFrame, hidden: Set[str]) -> list[dict[str, Any]]:
    """One row an arm and cell: seeds, results, sizes; no top-1 of the arms in `hidden`, whose claims lack seeds."""
    rows = []
    for (arm, overrides), group in runs.groupby(["arm", "overrides"], sort=True):
        of = [claim for claim in claims if arm in (*claim.all_arms, *claim.level_arms)]
        rows.append(
            {
                "arm": arm,
                "overrides": overrides,
                "seeds": group.seed.nunique(),
                "claims": " ".join(dict.fromkeys(claim.claim for claim in of)),
                "git": " ".join(sorted(group.git.dropna().unique())),
                **{name: group[name].mean() for name in ("top1", "sparsity", "params_sparse", "macs", "wall_seconds")},
                **({"top1": math.nan} if arm in hidden else {}),
            }
        )
    return rows


def _environment(html: bool, results: Path) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=html, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(number=_number, interval=interval, mean=_mean, bold=_bold)
    environment.globals.update(
        embed=lambda path: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
        relative=lambda path: path.relative_to(results).as_posix(),
    )
    return environment


def _bold(text: str) -> Markup:
    """HTML of a text, with `**words**` set in bold."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))


def _number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number as it stands in a table; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _mean(each: tuple[float, float, float], seeds: int) -> str:
    """A mean over seeds with its 95 % interval; of one seed, the value."""
    mean, low, high = each
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" if seeds > 1 else f"{mean:+.2f}"
