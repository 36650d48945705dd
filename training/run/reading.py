"""How the settings say that files are read, and what a person is told of the files that were."""

from collections.abc import Mapping
from typing import Any

from training.data.interaction_file import Cleaning
from training.data.prepare import parse_columns, parse_effects, parse_weights
from training.data.timestamp import read_bounds
from training.evaluation.question import most_asked
from training.file.account import Form
from training.run.config import Prepare

_OLD = "1996-01-01"  # seconds since 2001 of our days would be of before, and hardly any log is
SAID = {
    "lines_not_utf8": "{count:,} lines are not UTF-8 and were read as Windows-1252 (first: {first}); another encoding: "
    "--set prepare.encoding=NAME",
    "lines_in_records_of_several_lines": "{count:,} lines are parts of records over several lines (first: {first}); "
    'where quotes are plain characters: --set prepare.quote=""',
    "lines_with_stray_quotes": "{count:,} lines have quotes that do not fit CSV and are kept as text (first: {first})",
    "lines_without_values": "{count:,} lines hold delimiters alone, and are left out (first: {first})",
    "lines_around_the_rows": "{count:,} lines are comments, rules or totals around the rows, and are left out (first: "
    "{first})",
    "headers_between_rows": "the header stands {count:,} more times between the rows, and is left out (first: {first})",
    "parts_copied": "{count:,} parts are byte for byte like another ({first}): their rows count twice",
    "values_with_half_characters": "some text holds half a character, which became '?' (about {first})",
    "user_id_rounded": "{count:,} user ids look like 1.23457E+11: a spreadsheet may have rounded, and so merged, them",
    "item_id_rounded": "{count:,} item ids look like 1.23457E+11: a spreadsheet may have rounded, and so merged, them",
    "user_id_alike": "{count:,} user ids differ from another only in capitals, blanks or signs that are not seen "
    "(first: {first}): they stay apart",
    "item_id_lists": "{count:,} item ids look like several (first: {first}); if they are, write a row for each",
    "item_id_alike": "{count:,} item ids differ from another only in capitals, blanks or signs that are not seen "
    "(first: {first}): they stay apart",
    "user_id_heavy": "user {first} has {count:,} of the events, more than a fifth: if it stands for nobody (unknown, a "
    "guest), empty it in the file, and its rows are left out",
    "timestamps_rounded": "{count:,} timestamps look like 1.60028E+09 (first: {first}): a spreadsheet has "
    "rounded them, and the order within some hours is lost; export them as text",
}
"""What is said of unusual findings, by their name in the report."""


def open_cleaning(settings: Prepare) -> Cleaning:
    """Return how the files are to be read and cleaned. Raises InputError."""
    return Cleaning(
        columns=parse_columns(settings.columns),
        events=[name.strip() for name in settings.events.split(",") if name.strip()],
        min_weight=settings.min_weight,
        max_malformed=settings.max_malformed,
        max_history=settings.max_history,
        form=Form(settings.format, settings.delimiter, settings.quote, settings.header, settings.encoding),
        times=read_bounds(settings.times, settings.earliest, settings.latest),
        weights=settings.weights,
        event_weights=parse_weights(settings.event_weights),
        event_effects=parse_effects(settings.event_effects),
        min_targets=settings.min_targets,
        item_columns=parse_columns(settings.item_columns, "--item-columns"),
        item_form=Form("auto", settings.item_delimiter, settings.item_quote, "auto", settings.item_encoding),
        item_text=[name.strip() for name in settings.item_text.split(",") if name.strip()],
    )


def data_lines(report: Mapping[str, Any]) -> list[str]:
    """Return what is said of prepared data: how they were read, their span, what was dropped, what is left to learn."""
    first, last = (text[:10] for text in report["span"])
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in report["dropped"].items() if count)
    malformed = report["malformed"]
    targets = report["targets"]
    return [
        *_form_lines(report.get("form")),
        f"from {first} to {last}, {report['n_items']:,} items, {report['n_users']:,} users, "
        f"median {report.get('median_events', 0):g} events",
        *([f"every event is of before {_OLD}: are these numbers Unix times?"] if last < _OLD else []),
        f"{report['n_events']:,} events, {report['repeat_share']:.1%} repeats "
        f"(seen items are {'' if report['repeat_consumption'] else 'not '}recommended)",
        f"{report['rows_read']:,} rows read; dropped: {dropped or 'none'}; malformed: {malformed['count']:,}"
        + (f" (first: {malformed['examples'][0]})" if malformed["examples"] else ""),
        *(
            ["each event counts in the loss by its weight; the linear teacher takes all alike"]
            if report["settings"].get("weights") == "loss"
            else []
        ),
        *([report["fallback"]] if report.get("fallback") else []),
        f"to learn: {report.get('training_targets', report['parts']['train']):,} events that follow another; asked: "
        f"{targets['val']:,} users of validation, {targets['test']:,} of the test",
        *_drawn_lines(targets, report["n_items"]),
        *_item_lines(report.get("items_file"), report["n_items"]),
    ]


def _drawn_lines(targets: Mapping[str, int], n_items: int) -> list[str]:
    """Return what is said where a catalogue is so large that not all who could be asked are."""
    most = most_asked(n_items)
    if max(targets["val"], targets["test"]) <= most:
        return []
    return [f"of each, {most:,} are drawn to be asked: scoring {n_items:,} items for everybody would take hours"]


def _form_lines(form: Mapping[str, Any] | None) -> list[str]:
    """Return how the table was read; nothing for data that were prepared before this was kept."""
    if form is None:
        return []
    seen = ", ".join(f"{name} {value}" for name, value in form["recognised"].items())
    parts = f"{form['parts']:,} parts, " if form["parts"] > 1 else ""
    columns = ", ".join(ours if ours == theirs else f"{ours}={theirs}" for ours, theirs in form["columns"].items())
    lines = [f"read as: {parts}{seen}; times: {form['times']}", f"columns: {columns}"]
    if form["unused"]:
        lines[-1] += f"; not used: {', '.join(form['unused'][:20])}" + (", ..." if len(form["unused"]) > 20 else "")
    if form["times"].startswith("none"):
        lines.append("there are no times: the order of the rows is taken, and a split by time means nothing")
    if form.get("clock") and form["columns"].get("timestamp"):
        clock, day = form["clock"], form["columns"]["timestamp"]
        lines.append(f"{clock} holds times of day, and is not used. To join it: --columns timestamp='{day}+{clock}'")
    if form["ratings"]:
        name, lowest, highest, middle = form["ratings"]
        lines.append(
            f"{name} looks like ratings from {lowest:g} to {highest:g}, and is not used. To keep only what was liked: "
            f"--columns weight={name} --set prepare.min_weight={_below(middle)}"
        )
    if form.get("label"):
        lines.append(
            f"{form['label']} holds 0 and 1, and is not used: rows of 0 count as events too. To keep those of 1: "
            f"--columns weight={form['label']}"
        )
    for name, (count, first) in form["said"].items():
        lines.append(SAID.get(name, "{name}: {count:,}").format(name=name.replace("_", " "), count=count, first=first))
    return lines


def _below(rating: float) -> str:
    return f"{rating - 0.5:g}" if rating >= 1 else "0"


def _item_lines(items: Mapping[str, Any] | None, n_items: int) -> list[str]:
    if items is None:
        return []
    met = n_items - items["without_a_line"]
    lines = [
        f"{items['source']}: describes {met:,} of {n_items:,} items ({met / n_items:.1%}); "
        f"{items['not_in_catalogue']:,} of its items have no events"
        + (f"; where they do not meet, {items['cause']}" if items.get("cause") else "")
    ]
    if items.get("duplicate") or items.get("no_item"):
        lines.append(
            f"{items['source']}: left out: {items['duplicate']:,} rows of items that have one before, "
            f"{items['no_item']:,} without an id"
        )
    lines += [
        f"{items['source']}: read as {kind}: {', '.join(items[kind])}; as text: --set prepare.item_text=NAME"
        for kind in ("numbers", "booleans", "lists")
        if items.get(kind)
    ]
    if items.get("left_out"):
        lines.append(
            f"{items['source']}: left out, because their values are nested or vectors: {', '.join(items['left_out'])}"
        )
    if items["malformed"]["examples"]:
        lines.append(
            f"{items['source']}: malformed: {items['malformed']['count']:,} ({items['malformed']['examples'][0]})"
        )
    return lines
