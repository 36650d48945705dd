"""How well the live student still agrees with its teacher on what users do now, beside how well it did offline.

Both rank the newest events, which neither saw; the share of their ten best that is the same is held against that on
the events that the live model's own run had held out. The histories are those of the accepted events, which a refresh
has anyway: nothing more is kept of users for it, and it ends with the number. A student that falls away from its
teacher has met what its distillation had not.
"""

from typing import Any

from service.bundle import Bundle
from training.data.prepared import Prepared
from training.distillation.student import STUDENT, files_of
from training.evaluation.judge import Ranking, rank, rank_asked
from training.evaluation.question import Question
from training.evaluation.variety import overlap
from training.loop.judge import AT, in_rows_of
from training.run.directory import Run, open_members
from training.run.given import open_given
from training.teacher.kind import RANKING
from training.teacher.mix import load_factors, load_trends, mix_scorer


def measure_agreement(
    run: Run, bundle: Bundle, served: Ranking, question: Question, prepared: Prepared
) -> dict[str, Any]:
    """Return overlap@10 of student and teacher of a run, live and offline, the least, and whether it has drifted.

    bundle: of the run. served: its ranking of the question, about prepared, which has one request at least. Drifted is
    what lies more than refresh.agreement below what it was offline.
    """
    live = overlap(served.top[:, :AT], rank_by_teacher(run, bundle, question, prepared).top[:, :AT])
    student = Ranking.load(files_of(run.out / "student", STUDENT).ranking)
    offline = overlap(student.top[:, :AT], Ranking.load(run.out / "mix" / RANKING).top[:, :AT])
    least = max(0.0, offline - run.config.refresh.agreement)
    return {"live": live, "offline": offline, "least": least, "has_drifted": live < least}


def describe_agreement(found: dict[str, Any]) -> str:
    """Return the line that says how well they agree."""
    text = (
        f"the live student and its teacher share {found['live']:.1%} of their ten best; {found['offline']:.1%} offline"
    )
    if not found["has_drifted"]:
        return text
    return (
        f"{text}: it has drifted by more than refresh.agreement. Users do what it was not taught: train all anew soon"
    )


def rank_by_teacher(run: Run, bundle: Bundle, question: Question, prepared: Prepared) -> Ranking:
    """Return the ranking of the mixed teachers, in the rows of the run's bundle, which are theirs."""
    asked, known = in_rows_of(bundle, question, prepared)
    factors, trends, members = load_factors(run.out / "mix"), load_trends(run.out / "mix"), open_members(run)
    score, longest = mix_scorer({name: members[name] for name in factors}, factors)
    given = open_given(run, known, with_table=False)
    if given is None:
        return rank(asked, score, longest)
    weight = sum(factor * trends[name] for name, factor in factors.items())
    return rank_asked(asked, given.scorer(asked, score, given.rule_of(weight)), longest)
