"""Tables of results as lines of text, for the terminal: of a run, of several runs, and of each study.

Each function takes what the run or the study left as JSON, and returns lines without line ends.
"""

from collections.abc import Mapping
from typing import Any

from training.evaluation.metric import describe_change
from training.report.collect import titles_of
from training.study.ablation import AT, ON_HARD, ON_KL, VERDICTS

BASES = {ON_HARD: "hard loss", ON_KL: "soft labels"}  # what an ablation adds its terms to, for the reader


def summary_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the table of one run: quality and cost of each model. metrics: what metrics.json holds."""
    lines = [f"{'':40}{'NDCG@10':>9}{'95 %':>18}{'HR@10':>8}{'parameters':>13}{'bytes':>13}{'encode µs':>11}"]
    titles = titles_of(metrics["models"])
    for name, row in metrics["models"].items():
        sizes = "".join(
            f"{row[key]:>{width},.0f}" if key in row else " " * width
            for key, width in (("parameters", 13), ("bytes", 13), ("encode_us", 11))
        )
        lines.append(
            f"{titles[name]:40}{row['ndcg@10']:9.4f}{_interval(row['ndcg@10_interval']):>18}{row['hr@10']:8.4f}{sizes}"
        )
    return [
        *lines,
        *request_lines(metrics, titles),
        *newcomer_lines(metrics.get("newcomers", {})),
        *similar_lines(metrics.get("similar", {})),
    ]


def newcomer_lines(found: Mapping[str, Any]) -> list[str]:
    """Return how well new items are told apart; no lines where no items were held out. found: see read_newcomers."""
    judged = found.get("judged", {})
    if "models" not in judged:
        return []
    lines = [
        "",
        f"{judged['held_out']:,} items held out whole, ranked among themselves; {judged['requests']:,} requests",
    ]
    for name, row in judged["models"].items():
        ahead = f"  encoder {_difference(row['encoder_ahead'])}" if "encoder_ahead" in row else ""
        lines.append(
            f"{found['titles'][name]:40}{row['ndcg@10']:9.4f}{_interval(row['ndcg@10_interval']):>18}{row['hr@10']:8.4f}"
            f"{ahead}"
        )
    return lines


def similar_lines(found: Mapping[str, Any]) -> list[str]:
    """Return how good items that go with others are; no lines where that was not judged. found: see read_similar."""
    if not found.get("models"):
        return []
    lines = ["", f"items that go with others, {found['pairs']:,} pairs of a basket or session"]
    for name, row in found["models"].items():
        ahead = f"  served {_difference(row['mix_ahead'])}" if "mix_ahead" in row else ""
        interval = _interval(row["ndcg@10_interval"])
        lines.append(f"{found['titles'][name]:40}{row['ndcg@10']:9.4f}{interval:>18}{row['hr@10']:8.4f}{ahead}")
    return lines


def request_lines(table: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """Return NDCG@10 of each model on each kind of request, with its ratio to the bar.

    table: by_request and bar of a run or of several; without by_request there are no lines. A ratio whose whole
    interval lies below 1 has an exclamation mark.
    """
    kinds = list(table.get("by_request", {}).values())
    if not kinds:
        return []
    lines = ["", "NDCG@10 by kind of request" + (", and times recent popularity (!: below it)" if table["bar"] else "")]
    lines += [f"  {number}: {kind['title']}, {kind['requests']:,}" for number, kind in enumerate(kinds)]
    lines.append(" " * 40 + "".join(f"{number:>15}" for number in range(len(kinds))))
    for name in kinds[0]["models"]:
        cells = [_beside_bar(kind["models"].get(name)) for kind in kinds]
        lines.append(f"{titles[name]:40}" + "".join(f"{cell:>15}" for cell in cells))
    return lines


def _beside_bar(row: Mapping[str, Any] | None) -> str:
    """Return a model's NDCG@10 on one kind of request and its ratio to the bar as text, empty where there is none."""
    if row is None:
        return ""
    of_bar = row["of_bar"]
    return f"{row['ndcg@10']:.4f}" + (
        f" {of_bar['ratio']:6.2f}{'!' if of_bar['high'] < 1 else ' '}" if of_bar else " " * 8
    )


def comparison_lines(table: Mapping[str, Any]) -> list[str]:
    """Return the table of several runs: each model, then each difference. table: what compare_runs returned."""
    lines = [f"{'':40}{'NDCG@10':>9}{'95 %':>18}{'spread':>9}{'HR@10':>8}"]
    for name, row in table["models"].items():
        spread = "same" if row["ndcg@10_spread"] is None else f"{row['ndcg@10_spread']:.4f}"
        lines.append(
            f"{table['titles'][name]:40}{row['ndcg@10']:9.4f}{_interval(row['ndcg@10_interval']):>18}"
            f"{spread:>9}{row['hr@10']:8.4f}"
        )
    lines += [*request_lines(table, table["titles"]), ""]
    for pair, row in table["ndcg@10_differences"].items():
        each = ", ".join(describe_change(value) for value in row["per_seed"])
        lines.append(f"{pair:40}{_difference(row):>30}; {table['by']}s {each}")
    return lines


def ablation_lines(table: Mapping[str, Any]) -> list[str]:
    """Return the table of an ablation, what follows from it, and what it took. table: what ablation.json holds."""
    lines = [f"{'':32}{'seeds':>6}{'validation':>12}{'NDCG@10':>9}{'beside its base':>30}  {'coverage':>8}{'Gini':>7}"]
    for row in table["rows"]:
        beside = _difference(row["difference"]) if row["term"] else ""
        lines.append(
            f"{row_title(row):32}{len(row['seeds']):>6}{row['validation']:>12.4f}{row[f'ndcg@{AT}']:>9.4f}{beside:>30}"
            f"  {row[f'coverage@{AT}']:>8.3f}{row[f'gini@{AT}']:>7.3f}  {row.get('verdict', '')}"
        )
    return [*lines, *findings(table), f"{table['trials']} students, {table['minutes']:.1f} minutes"]


def findings(table: Mapping[str, Any]) -> list[str]:
    """Return a line for each base of an ablation that says which terms help, which do nothing and which hurt."""
    lines = []
    for base, title in BASES.items():
        by_verdict: dict[str, list[str]] = {}
        plain = [row[f"ndcg@{AT}"] for row in table["rows"] if row["base"] == base and not row["term"]]
        for row in table["rows"]:
            if row["base"] == base and row["term"]:
                is_in_vain = row["extra_block"] and row[f"ndcg@{AT}"] < max(plain)
                note = " (of a student with another block, which stays below the one without)" if is_in_vain else ""
                by_verdict.setdefault(row["verdict"], []).append(row["term"] + note)
        said = [f"{word}: {', '.join(dict.fromkeys(by_verdict[word]))}" for word in VERDICTS if word in by_verdict]
        lines.append(f"on the {title}: {'; '.join(said) or 'nothing was tried'}")
    return lines


def row_title(row: Mapping[str, Any]) -> str:
    """Return how the students of an ablation's row were taught, for the reader."""
    base = BASES[ON_HARD] if row["base"] == ON_HARD else BASES[ON_KL]
    blocks = " (with attention)" if row["extra_block"] else ""
    return f"{base} + {row['term']} x {row['weight']:g}{blocks}" if row["term"] else f"{base} alone{blocks}"


def capacity_lines(table: Mapping[str, Any]) -> list[str]:
    """Return the table of the capacity study, by width and teacher. table: what capacity.json holds."""
    head = f"{'width':>6}  {'taught by':14}{'validation':>12}{'NDCG@10':>9}"
    lines = [f"{head}{'bytes':>8}{'score µs':>10}{'beside alone':>30}"]
    for row in table["rows"]:
        beside = _difference(row["gain"]) if row.get("gain") else ""
        taught = "taste alone" if row["teacher"] == "taste" else row["teacher"].replace("_", " ")
        quality = f"{row['validation']:>12.4f}{row[f'ndcg@{AT}']:>9.4f}"
        cost = f"{row['item_bytes']:>8.0f}{row['score_us']:>10.0f}"
        lines.append(f"{row['dim']:>6}  {taught:14}{quality}{cost}{beside:>30}".rstrip())
    teachers = ", ".join(f"{name} {value:.4f}" for name, value in table["teachers"].items())
    return [*lines, f"teachers on validation: {teachers}; {table['minutes']:.1f} minutes"]


def compression_lines(table: Mapping[str, Any]) -> list[str]:
    """Return the table of the compression study, a line for each way to shrink. table: what compression.json holds."""
    lines = [
        f"{'':20}{'NDCG@10':>8}{'95 %':>18}{'taught':>8}{'95 %':>18}{'encoder':>10}{'items':>12}{'parameters':>12}"
        f"{'encode':>8}{'score µs':>10}"
    ]
    for name, row in table["rows"].items():
        both = "".join(
            f"{row[when][f'ndcg@{AT}']:8.4f}{_interval(row[when][f'ndcg@{AT}_interval']):>18}"
            for when in ("before", "after")
        )
        lines.append(
            f"{name:20}{both}{row['encoder_bytes']:>10,}{row['items_bytes']:>12,}{row['parameters']:>12,}"
            f"{row['encode_us']:>8.0f}{row['score_us']:>10.0f}"
        )
    return [*lines, f"{table['minutes']:.1f} minutes; {table['timed_items']:,} items scored"]


def _interval(ends: tuple[float, float]) -> str:
    """Return an interval of a metric as text."""
    low, high = ends
    return f"{low:.4f} to {high:.4f}"


def _difference(found: Mapping[str, float]) -> str:
    """Return a relative difference with its interval as text."""
    value, low, high = (describe_change(found[key]) for key in ("difference", "low", "high"))
    return f"{value} ({low} to {high})"
