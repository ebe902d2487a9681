"""report.html: one self-contained page, without scripts or anything from elsewhere."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from statistics import fmean
from string import Template
from typing import Any

from wideseek.grading.widesearch_aggregate import FIGURES
from wideseek_eval.figure import draw_svg, points_of
from wideseek_eval.report import (
    METRICS,
    blocks_of,
    metrics_of,
    rate,
    tell_contamination,
    tell_dollars,
)

NOT_MEASURED = "not measured"
_OURS = '<tr class="ours">'
_SHOWN_ELSEWHERE = frozenset(
    "all by_group by_rows by_kind by_language widesearch qa qa_by_group mean agents fetches contamination "
    "stop_reasons agent_ends tool_outcomes grading_failures dollars dollars_unscored".split()
)


def render_page(summary: Mapping[str, Any]) -> str:
    """The page of a summary.json. Texts from outside are escaped."""
    title = f"{summary.get('suite', 'evaluation')}, {summary.get('model') or 'a served model'}"
    body = [f"<h1>{escape(title)}</h1>", _intro(summary), _facts(summary)]
    for block in blocks_of(dict(summary)):
        body += [_figure(block), _scores(block, summary["k"])]
    body += [
        _widesearch(summary),
        _costs(summary),
        _tools(summary),
        _endings(summary),
        *_papers(summary),
    ]
    body.append(section("How it was made", table((), _settings(summary))))
    return fill_page(title, body)


def fill_page(title: str, parts: Iterable[str]) -> str:
    """The whole page around parts that are HTML."""
    page = (files("wideseek_eval") / "page.html").read_text(encoding="utf-8")
    return Template(page).substitute(title=escape(title), body="\n".join(filter(None, parts)))


def _intro(summary: Mapping[str, Any]) -> str:
    made = f"{summary['trials']} trials, {summary['k']} a task"
    told = [made, summary.get("date"), summary.get("commit")]
    note = "Means over tasks with 95 % bootstrap intervals; trials of a task are drawn together."
    return f'<p class="soft">{escape(" · ".join(str(t) for t in told if t))}<br>{note}</p>'


def _facts(summary: Mapping[str, Any]) -> str:
    facts = []
    for block in blocks_of(dict(summary)):
        scores = block["all"]
        for metric in metrics_of(block)[:3]:
            mean, ends = _mean_and_ends(scores.get(metric))
            facts.append((METRICS[metric], mean, ends))
    fetched = summary["fetches"].get("access", {"succeeded": 0, "tried": 0})
    share = f"{fetched['succeeded'] / fetched['tried']:.1%}" if fetched["tried"] else NOT_MEASURED
    facts.append(("pages fetched", share, f"{fetched['tried']} tried"))
    mean = summary["mean"]
    facts.append(("a trial takes", f"{mean['seconds']:.1f} s", f"{mean['tokens']:,.0f} tokens"))
    tiles = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in facts
    )
    return f'<dl class="facts">{"".join(tiles)}</dl>'


def _figure(block: Mapping[str, Any]) -> str:
    metric = metrics_of(block)[0]
    points = points_of(block, metric)
    if not points:
        return ""
    rings = any(point.best is not None for point in points)
    note = "Dots are means over all trials, lines 95 % intervals"
    note += ", rings the best trial of each task." if rings else "."
    drawn = draw_svg(points, METRICS[metric])
    return f"<h2>{METRICS[metric]}</h2><figure>{drawn}<figcaption>{note}</figcaption></figure>"


def _scores(block: Mapping[str, Any], k: int) -> str:
    metrics = metrics_of(block)
    averages = [
        (name, str(scores["tasks"]), *(_cell(scores.get(metric)) for metric in metrics))
        for name, scores in block.items()
    ]
    headers = ("", "tasks", *(METRICS[metric] for metric in metrics))
    body = table(headers, averages, f"Avg@{k}")
    if k > 1:
        best = [
            (name, str(scores["tasks"]), *(_cell(scores["best"].get(m)) for m in metrics))
            for name, scores in block.items()
        ]
        body += table(headers, best, f"Max@{k}; of success and right answers, Pass@{k}")
    short = block["all"]["short"]
    if short:
        body += f'<p class="soft">{short} tasks have fewer trials than others.</p>'
    return section("Scores", body)


def _widesearch(summary: Mapping[str, Any]) -> str:
    """Every figure of the official summary, and the corrected ones beside it."""
    k = summary["k"]
    ends = ("avg_n", f"Avg@{k}"), ("max_n", f"Max@{k}"), ("min_n", f"Min@{k}")
    kinds = ("official", "corrected")
    headers = ("", *(f"{kind} {shown}" for kind in kinds for _, shown in ends))
    tables = []
    for part, found in summary["widesearch"].items():
        rows = []
        for figure in FIGURES:
            spreads = ((found[kind] or {}).get(figure) for kind in kinds)
            cells = [
                f"{spread[end]:.3f}" if spread else NOT_MEASURED
                for spread in spreads
                for end, _ in ends
            ]
            rows.append((figure.replace("_", " "), *cells))
        note = f"{part}; of score, the success of a whole table, Max@{k} is Pass@{k}"
        tables.append(table(headers, rows, note))
    return section(f"WideSearch, {_judge(summary)}", "".join(tables)) if tables else ""


def _costs(summary: Mapping[str, Any]) -> str:
    mean = summary["mean"]
    trial = f"{mean['tokens']:,.0f}", f"{mean['tool_calls']:.1f}", f"{mean['seconds']:.1f}"
    rows = [("a trial", str(summary["trials"]), *trial)]
    for role, cost in summary["agents"].items():
        told = f"{cost['tokens']:,.0f}", f"{cost['tool_calls']:.1f}", f"{cost['seconds']:.1f}"
        rows.append((f"a {role} agent", f"{cost['agents']:,.0f}", *told))
    shown = table(("on average", "number", "tokens", "tool calls", "seconds"), rows)
    if "dollars" in summary:
        shown += f"<p>{escape(tell_dollars(summary))}</p>"
    return section("Cost", shown)


def _tools(summary: Mapping[str, Any]) -> str:
    rows = [(tool, rate(counts)) for tool, counts in summary["fetches"].items()]
    found = summary["contamination"]
    notes = [tell_contamination(found)]
    if found["trials_flagged"]:
        notes.append(f"read a canary: {', '.join(found['trials_flagged'])}")
        scores = found["all_without_flagged"]
        told = (f"{METRICS[m]} {_plain(scores.get(m))}" for m in METRICS if m in scores)
        notes.append(f"without these trials: {', '.join(told) or NOT_MEASURED}")
    shown = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return section("Pages and searches", table(("", "came back"), rows) + shown)


def _endings(summary: Mapping[str, Any]) -> str:
    rows = [("answers without a table or phrase to grade", str(summary["nothing_to_grade"]))]
    for name in ("stop_reasons", "agent_ends", "tool_outcomes", "grading_failures"):
        told = ", ".join(f"{kind} {count}" for kind, count in summary[name].items())
        rows.append((name.replace("_", " "), told or "none"))
    return section("How it ended", table((), rows))


def _papers(summary: Mapping[str, Any]) -> Iterable[str]:
    """The paper's tables, with what was measured here as the last row."""
    told = tomllib.loads((files("wideseek_eval") / "paper.toml").read_text(encoding="utf-8"))
    name = f"here: {summary.get('model') or 'a served model'}"
    wide = summary["suite"] == "widesearch" if "suite" in summary else False
    scores = summary["all"] if wide else {"best": {}}
    kinds = [s.get(m) for m in ("item_f1", "row_f1", "success") for s in (scores, scores["best"])]
    groups = summary["qa_by_group"] if summary.get("suite") == "qa" else {}
    sets = [groups.get(part, {}).get("judged") for part in told["sets"]]
    average = fmean(s["mean"] for s in sets) if all(sets) else None
    headers = ("", "item F1", "Max@4", "row F1", "Max@4", "success", "Pass@4", "QA average")
    ours = (name, *(_percent(s and s["mean"]) for s in kinds), _percent(average))
    note = f"{told['source']}, in percent."
    if summary.get("widesearch"):
        note += f" Here: the official figures, {summary['k']} trials, {_judge(summary)}."
    yield section("Beside the paper", _paper_table(headers, told["widesearch"], ours, note))
    ours = (name, *(_percent(s and s["mean"]) for s in sets))
    note = "The question-answering sets, in percent, graded by a judge model."
    yield _paper_table(("", *told["sets"]), told["qa"], ours, note)


def _judge(summary: Mapping[str, Any]) -> str:
    judge = summary.get("judge", "rule")
    return "judged by rule, without a model" if judge == "rule" else f"judged by {judge}"


def _paper_table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], ours: Sequence[str], note: str
) -> str:
    theirs = [
        [row[0], *(f"{value:.1f}" for value in row[1:]), *["-"] * (len(headers) - len(row))]
        for row in rows
    ]
    return table(headers, [*theirs, ours], note, ours=len(theirs))


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = {name: value for name, value in summary.items() if name not in _SHOWN_ELSEWHERE}
    versions = shown.pop("versions", {})
    shown |= {f"{package} version": number for package, number in versions.items()}
    return [(name.replace("_", " "), str(value)) for name, value in shown.items()]


def section(title: str, body: str) -> str:
    """HTML of a part under a title."""
    return f"<h2>{escape(title)}</h2>{body}"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", ours: int = -1
) -> str:
    """HTML of rows of texts; `ours` is the row that stands out. All is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    lines = "".join(
        (_OURS if index == ours else "<tr>")
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for index, row in enumerate(rows)
    )
    caption = f"<caption>{escape(note)}</caption>" if note else ""
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="wide"><table>{caption}{top}<tbody>{lines}</tbody></table></div>'


def _cell(score: Mapping[str, float] | None) -> str:
    return " ".join(_mean_and_ends(score)).strip()


def _plain(score: Mapping[str, float] | None) -> str:
    return _mean_and_ends(score)[0]


def _mean_and_ends(score: Mapping[str, float] | None) -> tuple[str, str]:
    if score is None:
        return NOT_MEASURED, ""
    return f"{score['mean']:.3f}", f"[{score['low']:.3f}, {score['high']:.3f}]"


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{100 * value:.1f}"
