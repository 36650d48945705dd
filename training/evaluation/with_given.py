"""Judge a model together with what it is given: the neighbours' table and the trend at the time of each request."""

import json
from collections.abc import Callable
from pathlib import Path

from service.bundle import ScoreRule, parse_score
from training import ranks
from training.data.prepared import Prepared
from training.data.split import VAL
from training.evaluation.given import Given, trend_weight_of
from training.evaluation.given_weights import fit_rule
from training.evaluation.judge import (
    AskedScorer,
    Ranking,
    columns_of,
    judge,
    mean_ndcg,
    model_scorer,
    rank_asked,
    shown,
    validation_score,
)
from training.evaluation.question import Question, ask, judged_part
from training.model.encoder import SequenceModel
from training.progress import Progress


def asked_scorer(question: Question, model: SequenceModel, given: Given, rule: ScoreRule | None = None) -> AskedScorer:
    """Return the scorer of a model with what it is given. rule: None takes the weights that it was trained with."""
    own = given.rule_of(trend_weight_of(model)) if rule is None else rule
    return given.scorer(question, model_scorer(model), own, columns_of(model))


def learn_rule(
    model: SequenceModel, given: Given, path: Path, progress: Progress, *, by_first: bool = False
) -> ScoreRule:
    """Return the rule of a trained model that was fitted to validation requests, and write it with what was tried.

    Processes that train together all call it. by_first: only the first has the whole model, and can score.
    """
    question = ask(given.prepared, VAL)
    own = given.with_trend(trend_weight_of(model))
    rule, about = fit_rule(question, model_scorer(model), own, model.size.max_history, progress, by_first=by_first)
    text = json.dumps({"score": rule.to_json(), "fit": about}, indent=1) + "\n"
    ranks.alone(lambda: path.write_text(text))
    progress.note(describe_rule(rule, own))
    return rule


def load_rule(path: Path) -> ScoreRule | None:
    """Return the rule that learn_rule wrote; None where there is none, or taste is all that it has."""
    if not path.exists():
        return None
    score = json.loads(path.read_text())["score"]
    return None if score["parts"] == ["taste"] else parse_score(score)


def describe_rule(rule: ScoreRule, given: Given) -> str:
    """Return a line that says what the score consists of and what was left out because it brings nothing."""
    gap = rule.gap
    said = [f"taste x {min(gap.taste):.2f} to {max(gap.taste):.2f}"]
    if rule.neighbours:
        said.append(f"neighbours x {rule.neighbours.weight:.3g}")
    if rule.trend:
        said.append(f"trend x {min(gap.trend):.2f} to {max(gap.trend):.2f}, e {rule.trend.epsilon:.3g}")
    missing = [name for name in given.parts.rule.parts if name not in rule.parts]
    return "score: " + ", ".join(said) + (f"; left out: {', '.join(missing)}" if missing else "")


def judge_given(
    prepared: Prepared,
    model: SequenceModel,
    given: Given | None,
    rule: ScoreRule | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank the judged part with a model and what it is given, as judge does. given: None, nothing.

    progress: where it is shown how far it is.
    """
    if given is None:
        return judge(prepared, model)
    question = ask(prepared, judged_part(prepared))
    with shown(progress, question, asked_scorer(question, model, given, rule), model.shard) as scorer:
        return rank_asked(question, scorer, model.size.max_history, both_rules=True, shard=model.shard)


def validation_score_given(
    prepared: Prepared, given: Given | None, rule: ScoreRule | None = None, progress: Progress | None = None
) -> Callable[[SequenceModel], float]:
    """Return what validation_score returns, for a model with what it is given."""
    if given is None:
        return validation_score(prepared, progress)
    question = ask(prepared, VAL)

    def score(model: SequenceModel) -> float:
        with shown(progress, question, asked_scorer(question, model, given, rule), model.shard) as scorer:
            return mean_ndcg(question, scorer, model.size.max_history, model.shard)

    return score
