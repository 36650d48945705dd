"""One refresh: take the events since, train on from the live model's run, judge both on the newest, publish or not.

Its steps leave files that are whole or absent, in this order: events/, plan.json, interactions.parquet, the stages of a
run, judged.json, the store's live version, a line of refreshes.jsonl, report.html. Whoever is stopped anywhere goes on
there. The live version is replaced by a comparison in the store, so of two refreshers at most one publishes.

The judged model is published as it is, and not trained on the events that judged it: what is served is what was
measured. It learns them in the next refresh, and histories and trend know them at once.
"""

import json
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import numpy as np
import polars as pl

from service.bundle import open_bundle
from training.data.prepared import Prepared
from training.data.split import TRAIN
from training.errors import InputError
from training.file.source import Place
from training.loop.agreement import describe_agreement, measure_agreement
from training.loop.bias import measure_bias
from training.loop.event_file import EventFile, read_event_files, take_events
from training.loop.gate import Verdict, decide
from training.loop.generation import (
    EVENTS,
    JUDGED,
    PLACE,
    Generation,
    Plan,
    base_of,
    begin,
    check_base,
    is_same_config,
    judged_before,
    keep_full_items,
    made_at,
    note_verdict,
    prune,
    read_generations,
    read_json,
)
from training.loop.history import add_to_history, read_history, write_history
from training.loop.interactions import read_new, write_interactions, write_items
from training.loop.judge import by_group, is_known, judge_bundle, ndcg_of, unseen_question
from training.loop.propensity import LOOKED_BACK, UNWEIGHED, Propensity, count_places, estimate, given
from training.loop.service_command import ServiceCommand
from training.loop.setting import count_judged, count_needed, differing_training, hold_newest, refresh_config
from training.model.warm import Warm
from training.progress import Progress
from training.run.config import PROPENSITIES, Config
from training.run.config_file import dump_config, load_config
from training.run.directory import Run
from training.run.fault import write_whole
from training.run.pipeline import prepare_files, run_compress, run_distill, run_export, run_report, run_teacher
from training.run.reading import open_cleaning

INTERACTIONS, ITEMS = "interactions.parquet", "items.jsonl"
_WAY_OUT = "'experiment stop' or 'experiment promote' ends it"


@dataclass(frozen=True)
class Wishes:
    """What is asked of refreshes. items: a file of items; None: what the first run knew of them. full_every: 0, never.

    overrides: settings, as --set takes them.
    """

    overrides: Sequence[str] = ()
    items: Place | None = None
    full_every: int = 0


class Refresher:
    """The refreshes of one directory, which a lock keeps for it."""

    def __init__(self, out: Path, service: ServiceCommand, wishes: Wishes, progress: Progress) -> None:
        self._out, self._service, self._wishes, self._progress = out, service, wishes, progress
        first = Run(out, load_config(out / "config.toml"), progress)
        self._config = refresh_config(first, wishes.overrides, has_items=wishes.items is not None)

    def refresh(self) -> str:
        """Do one refresh, or go on with one that was stopped; return a line that says what became of it.

        Raises InputError where the store cannot be reached, or its live version is none of this directory's.
        """
        taken = take_events(self._out / PLACE / EVENTS, self._service)
        self._progress.note(f"took {taken.events:,} events, up to {taken.position}")
        if taken.is_anew:
            self._progress.note(
                "the stream of events is another one than before: the store was emptied, or lost some of it. What was "
                "accepted and not taken before that is gone; all that is there was taken"
            )
        if taken.gone:
            self._progress.note(
                f"up to {taken.gone:,} events were gone before they were taken: the stream's cap has cut them, or they "
                "were of erased users. Refresh more often, or set RETORT_EVENT_STREAM_MAX higher"
            )
        live, generations = self._service.live_version(), read_generations(self._out)
        newest, done = generations[-1], {row["number"] for row in read_history(self._out)}
        if newest.plan and newest.number not in done:
            if (why := self._given_up(newest, newest.plan, live)) is None:
                self._progress.note(f"refresh {newest.number} was stopped and goes on")
                return self._finish(newest, generations)
            self._progress.note(f"refresh {newest.number} was stopped, and is {why}")
            self._record(newest, Verdict(False, why, 0))
        elif newest.plan and newest.version and not (newest.path / "report.html").exists():
            self._report(Run(newest.path, load_config(newest.path / "config.toml"), self._progress))
        plan = self._plan(generations, live)
        return plan if isinstance(plan, str) else self._finish(begin(self._out, plan), generations)

    def _given_up(self, stopped: Generation, plan: Plan, live: str | None) -> str | None:
        """Return why a refresh that was stopped does not go on; None where it does."""
        if live != plan.live and (live is None or live != stopped.version):
            return f"given up: {live or 'no version'} became live meanwhile"
        return None if live != plan.live or is_same_config(stopped, self._config) else "given up: other settings"

    def _plan(self, generations: Sequence[Generation], live: str | None) -> Plan | str:
        """Return what the next refresh is, or a line that says why there is none."""
        base = check_base(base_of(generations, live, self._out))
        files = [each for each in read_event_files(self._out / PLACE / EVENTS) if each.number > base.taken]
        since = base.plan.started if base.plan else made_at(base)
        if not files:
            return f"nothing new since {since}: no event was accepted after those that the live model was made from"
        found, n_implausible = read_new(self._out / PLACE / ".new.parquet", files, open_cleaning(self._config.prepare))
        if n_implausible:
            self._progress.note(
                f"{n_implausible:,} new events are left out, whose time is before prepare.earliest or after "
                "prepare.latest: a clock or a client that sends events is wrong"
            )
        needed = count_needed(self._config.refresh)
        if found.events.height < needed:
            return (
                f"waiting: {found.events.height:,} new events that can be learned since {since}; {needed:,} are needed "
                "(refresh.judged_least / refresh.judged_share)"
            )
        if tried := self._service.tried():
            return f"waiting: {tried}, and publishing would end that before it is decided; {_WAY_OUT}"
        kind, why = self._kind(base, found.items.gather(found.events["item"]))
        newest = generations[-1]
        if said := judged_before(newest, base, files[-1].number, kind, self._config):
            return f"nothing new since refresh {newest.number}: {said}"
        number = newest.number + 1
        since_full = 0 if kind == "full" else base.since_full + 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Plan(number, base.number, live, files[-1].number, found.events.height, kind, why, since_full, now)

    def _kind(self, base: Generation, items: pl.Series) -> tuple[str, str]:
        """Return whether training goes on or begins anew, and why. items: of the new events."""
        changed = differing_training(self._config, load_config(base.path / "config.toml"))
        if changed:
            return "full", f"{', '.join(changed[:3])} changed"
        if self._wishes.full_every and base.since_full + 1 >= self._wishes.full_every:
            return "full", f"every {self._wishes.full_every} refreshes"
        drift = 1 - float(items.is_in(list(base.full_items())).to_numpy().mean())
        why = f"{drift:.1%} of the new events are of items that the last full training did not know"
        return ("full" if drift > self._config.refresh.drift else "warm"), why

    def _finish(self, generation: Generation, generations: Sequence[Generation]) -> str:
        """Do what is left of a refresh, and return the line that says what became of it."""
        started, cpu = monotonic(), process_time()
        plan = generation.plan
        assert plan is not None  # noqa: S101  # begun
        lost = Generation(plan.base, self._out / PLACE / f"{plan.base:04d}", None)
        base = check_base(next((each for each in generations if each.number == plan.base), lost))
        self._progress.note(f"refresh {plan.number}, {plan.kind}: {plan.events:,} new events; {plan.why}")
        run = self._train(generation, base, plan)
        verdict = self._judge(run, base, plan)
        note_verdict(run.out / "bundle", verdict)
        if verdict.passes:
            verdict = self._publish(generation, plan, verdict)
        self._tell(generation)
        cost = {"seconds": monotonic() - started, "cpu_seconds": process_time() - cpu}
        self._record(generation, verdict, cost)
        self._report(run)
        self._prune([generation.version, plan.live])
        return verdict.sentence

    def _train(self, generation: Generation, base: Generation, plan: Plan) -> Run:
        """Make the refresh's run directory up to its bundle; what is there is kept."""
        before = Run(base.path, self._config, self._progress).prepared()
        run = self._open_run(generation, before, plan)
        items = self._wishes.items or run.out / ITEMS
        if not (run.out / INTERACTIONS).exists():
            if self._wishes.items is None:
                write_items(run.out / ITEMS, base.path / "prepared")
            cleaning, files = open_cleaning(run.config.prepare), self._files(base, plan)
            propensity = self._propensity(run.config, plan, cleaning.history_types)
            write_interactions(run.out / INTERACTIONS, before, files, cleaning, propensity)
        prepared = prepare_files(run, run.out / INTERACTIONS, items)
        if plan.kind == "warm":
            run = replace(run, warm=_warm(base.path, prepared, before, run.config))
        keep_full_items(generation, base, plan)
        for work in (run_teacher, run_distill, run_compress, run_export):
            work(run)
        return run

    def _open_run(self, generation: Generation, before: Prepared, plan: Plan) -> Run:
        """Return the run of a refresh, with the settings that it began with."""
        resolved = generation.path / "config.toml"
        if not resolved.exists():
            n_judged = count_judged(self._config.refresh, plan.events)
            config = hold_newest(self._config, n_judged, len(before.item) + plan.events)
            write_whole(resolved, dump_config(config))
        return Run(generation.path, load_config(resolved), self._progress)

    def _propensity(self, config: Config, plan: Plan, history_types: Mapping[str, Any] | None) -> Propensity:
        """Return how events are weighed by their place, if they are to be; say what is known of it."""
        if config.refresh.propensity == "none":
            return UNWEIGHED
        found = self._looked_at(config, plan, history_types)
        if config.refresh.propensity in PROPENSITIES:
            self._progress.note(f"refresh.propensity: {found.sentence}")
        return found

    def _looked_at(self, config: Config, plan: Plan, history_types: Mapping[str, Any] | None) -> Propensity:
        """Return how places are looked at: by the slope that was given, else by what explored items tell."""
        if config.refresh.propensity not in PROPENSITIES:
            return given(float(config.refresh.propensity))
        known = [each for each in read_event_files(self._out / PLACE / EVENTS) if each.number <= plan.taken]
        return estimate(count_places(known[-LOOKED_BACK:], history_types, explored=True))

    def _files(self, base: Generation, plan: Plan) -> list[EventFile]:
        files = read_event_files(self._out / PLACE / EVENTS)
        return [each for each in files if base.taken < each.number <= plan.taken]

    def _judge(self, run: Run, base: Generation, plan: Plan) -> Verdict:
        """Return what the gate says of the run's bundle beside the base's, and write it down."""
        path = run.out / JUDGED
        if path.exists():
            return Verdict(**read_json(path)["verdict"])
        prepared, before = run.prepared(), Run(base.path, run.config, self._progress).prepared()
        question = unseen_question(prepared, before)
        bundles = [open_bundle(place / "bundle") for place in (base.path, run.out)]
        rankings = [judge_bundle(bundle, question, prepared) for bundle in bundles]
        values = np.stack([ndcg_of(ranking) for ranking in rankings], axis=1)
        settings = run.config.refresh
        verdict = decide(
            values[:, 0], values[:, 1], question.users, margin=settings.margin, least=settings.judged_least
        )
        groups = by_group(question, prepared, before, values) if len(values) else {}
        agreement = None
        if len(values):
            agreement = measure_agreement(self._own(base), bundles[0], rankings[0], question, prepared)
            self._progress.note(describe_agreement(agreement))
        types = open_cleaning(run.config.prepare).history_types
        bias = measure_bias(self._files(base, plan), types, before, self._looked_at(run.config, plan, types))
        judged = {"verdict": asdict(verdict), "groups": groups, "agreement": agreement, "bias": bias}
        write_whole(path, json.dumps(judged, indent=1) + "\n")
        return verdict

    def _own(self, base: Generation) -> Run:
        """Return the run of a generation as it was made, but with what is asked of refreshes now."""
        config = load_config(base.path / "config.toml")
        return Run(base.path, replace(config, refresh=self._config.refresh), self._progress)

    def _publish(self, generation: Generation, plan: Plan, verdict: Verdict) -> Verdict:
        """Publish a bundle that passed; return the verdict, which says where that was not done and why.

        Another version that is being tried on users stays, because publishing would end that before it is decided.
        The service refuses then, and so it does where another version became live.

        Raises InputError where the store cannot be reached: the next refresh tries again.
        """
        if self._service.live_version() == generation.version:
            return verdict  # done before this process was stopped
        try:
            self._service.publish(generation.path / "bundle", plan.live)
        except InputError as refused:
            live = self._service.live_version()
            if live == generation.version:
                return verdict
            return replace(verdict, passes=False, sentence=f"not published, though it passed: {refused}")
        return verdict

    def _tell(self, generation: Generation) -> None:
        """Tell the service how student and teacher agree, where that was measured; if it cannot be told, say so."""
        if (found := read_json(generation.path / JUDGED).get("agreement")) and "least" in found:
            try:
                self._service.note_agreement(found["live"], found["offline"], found["least"])
            except InputError as error:
                self._progress.note(f"the service was not told how student and teacher agree: {error}")

    def _record(self, generation: Generation, verdict: Verdict, cost: dict[str, float] | None = None) -> None:
        plan = generation.plan
        assert plan is not None  # noqa: S101  # begun
        judged = read_json(generation.path / JUDGED) if (generation.path / JUDGED).exists() else {}
        row: dict[str, Any] = asdict(plan) | {"version": generation.version} | asdict(verdict)
        row |= {"live": plan.live, "live_ndcg@10": verdict.live, "new_ndcg@10": verdict.new}
        del row["new"]
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        add_to_history(
            self._out,
            row
            | {
                "groups": judged.get("groups", {}),
                "agreement": judged.get("agreement"),
                "bias": judged.get("bias"),
                "ended": ended,
                **(cost or {}),
                "peak_mb": _peak_mb(),
            },
        )

    def _prune(self, needed: Sequence[str | None]) -> None:
        """Remove what nobody can want back; nothing where the store does not say what that is."""
        try:
            wanted = self._service.wanted()
        except InputError as error:
            self._progress.note(f"no old run directory was removed: {error}")
            return
        prune(read_generations(self._out), [*needed, *wanted])

    def _report(self, run: Run) -> None:
        """Write the report of a refresh, with all refreshes up to it."""
        write_history(run.out, read_history(self._out))
        run_report(run)


def _warm(base: Path, prepared: Prepared, before: Prepared, config: Config) -> Warm:
    """Return how training goes on from an earlier run."""
    place = {item.item_id: row for row, item in enumerate(before.items)}
    rows = np.array([place.get(item.item_id, -1) for item in prepared.items], dtype=np.int64)
    fresh = ~is_known(prepared, before, TRAIN)[prepared.part == TRAIN]
    settings = config.refresh
    return Warm(base, rows, fresh, settings.rehearsal, settings.epochs, settings.rate)


def _peak_mb() -> float:
    """Return the most memory that this process has had, in MB. What getrusage says may be of the process before it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
