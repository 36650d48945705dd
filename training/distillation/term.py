"""The ways to transfer, by name: what each teaches, what it needs, and how the setting distill.terms combines them.

    distill.terms = "kl:1,hint:0.1"          loss = alpha · (1 · kl + 0.1 · hint) + (1 - alpha) · hard

A name without a number has the weight of the table below, which brings the term's gradient near that of the hard loss.
What cannot be taught is refused here, before anything is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.errors import InputError
from training.teacher.registry import has_neural


@dataclass(frozen=True)
class Term:
    """One way to transfer. about: what it teaches, and the source."""

    about: str
    weight: float = 1.0
    needs_neural: bool = False  # a teacher with states, layers and item vectors
    needs_attention: bool = False  # in teacher and student
    runs_teacher: bool = False  # on the student's batches, so the teacher must read histories as long as the student's
    asks_validation: bool = False  # it learns from validation users, as early stopping does
    by_shard: bool = False  # it can be taught where the item table lies in shards
    in_one_process: bool = False  # several that train together would each learn something else in it


TERMS = {
    "kl": Term("soft labels over the whole catalogue (Hinton 2015)", by_shard=True),
    "ranking": Term("the teacher's best, weighed by place (Tang and Wang 2018)"),
    "listwise": Term("the teacher's best in order, the others below (DE-RRD, Kang 2020)"),
    "closure": Term("soft labels over both's best and shared negatives (RCE-KD 2025)"),
    "stratified": Term("soft labels among items of like popularity (UnKD, Chen 2023)", by_shard=True),
    "confidence": Term("soft labels, the more the better the teacher knows the target (DLLM2Rec, Cui 2024)"),
    "hint": Term("the teacher's last state, projected (FitNets, Romero 2015)", 1.0, True, by_shard=True),
    "layers": Term("the outputs of several blocks (Sun 2019)", 1.0, True, runs_teacher=True, by_shard=True),
    "attention": Term(
        "attention maps (TinyBERT, Jiao 2020)", 1.0, True, needs_attention=True, runs_teacher=True, by_shard=True
    ),
    "relations": Term("distances among items and users (RKD, Park 2019)", 10.0, True),
    "adversarial": Term("soft labels at the worst nearby state (He 2018, Miyato 2018)"),
    "meta": Term(
        "soft and hard loss, their share learned against validation (Ren 2018)",
        asks_validation=True,
        in_one_process=True,
    ),
    "feedback": Term(
        "soft labels of a teacher corrected by the student's feedback (Pham 2021)",
        asks_validation=True,
        in_one_process=True,
    ),
    "mutual": Term("a second student of the same size, each the other's teacher (Zhang 2018)", in_one_process=True),
}


def parse_terms(text: str, setting: str = "distill.terms") -> dict[str, float]:
    """Return name -> weight of a list such as "kl:1,hint:0.1". Raises InputError that names the setting."""
    terms: dict[str, float] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, colon, number = (part.strip() for part in word.partition(":"))
        if name not in TERMS:
            raise InputError(f"{setting}: unknown term {name!r}; known: {', '.join(TERMS)}{_hard_note(name)}")
        if name in terms:
            raise InputError(f"{setting} names {name} twice")
        terms[name] = _weight(setting, name, number) if colon else TERMS[name].weight
    if not terms:
        raise InputError(f"{setting} must list some of {', '.join(TERMS)}; distill.alpha=0 trains without a teacher")
    return terms


@dataclass(frozen=True)
class Pupil:
    """What decides which terms can be taught to a student."""

    members: Sequence[str]  # the kinds of its teachers
    teacher_blocks: Sequence[str]  # the mixers, first to last
    teacher_history: int
    student_blocks: Sequence[str]
    student_history: int


def check_terms(terms: Mapping[str, float], pupil: Pupil) -> None:
    """Raise InputError where a term asks for what teacher or student does not have."""
    for name in terms:
        reason = missing(TERMS[name], pupil)
        if reason:
            raise InputError(f"distill.terms: {name} teaches {TERMS[name].about}, but {reason}")


def missing(term: Term, pupil: Pupil) -> str | None:
    """Return what a term lacks, with the way out; None where it can be taught."""
    if term.needs_neural and not has_neural(pupil.members):
        return (
            f"the teacher is {' and '.join(pupil.members)}: add transformer to teacher.members, or leave the term out"
        )
    if term.needs_attention and "attention" not in pupil.teacher_blocks:
        return f"teacher.blocks={','.join(pupil.teacher_blocks)} has no attention"
    if term.needs_attention and "attention" not in pupil.student_blocks:
        return (
            f"the student's blocks are {','.join(pupil.student_blocks)}, without attention: "
            "set student.blocks=pool,attention, or leave the term out"
        )
    if term.runs_teacher and pupil.teacher_history < pupil.student_history:
        return (
            f"the teacher reads {pupil.teacher_history} items and the student {pupil.student_history}: "
            "set student.max_history to at most the teacher's"
        )
    return None


def _weight(setting: str, name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 < weight < 1e6:
        raise InputError(f"{setting}: the weight of {name} must be a number above 0, not {text!r}")
    return weight


def _hard_note(name: str) -> str:
    return "; the hard loss weighs 1 - distill.alpha" if name == "hard" else ""
