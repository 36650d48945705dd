"""What a run will need, said when its data are known: memory, minutes and disk, stage by stage.

Minutes come from two measurements of the moment: how many logits this machine learns from in a second, and how many
scores it ranks. They are those of a quiet machine, whatever else runs now, for processor time is measured; and those
of all epochs that the settings allow, where most trainings stop earlier.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import process_time

import numpy as np
import torch

from training.data.prepared import Prepared, training_events
from training.data.split import VAL
from training.data.trend import MOST_SNAPSHOTS, MOST_VALUES
from training.evaluation.baseline import BASELINES, most_neighbours, parse_models
from training.evaluation.given_weights import COLUMNS, VALUES
from training.evaluation.question import most_asked
from training.evaluation.similar import MOST_JUDGED, most_chosen
from training.loss.logits import hard_loss
from training.machine import available_bytes
from training.model.batch import count_positions
from training.model.device import CHUNK_LOGITS, choose_device
from training.model.fit import MOST_LOGITS
from training.newcomer.making import HELD_SHARE
from training.newcomer.teaching import steps_of
from training.run.config import Config, Student, Teacher, parse_names
from training.teacher.linear_model import BYTES_A_CELL, EVENTS_AT_ONCE, most_items
from training.teacher.mix import BYTES_A_PARAMETER, USERS
from training.teacher.mix import VALUES as VALUES_MIXED

BASE_BYTES = 1000 << 20  # torch and what it brings, events, and what a validation makes for a moment
COPIES = 5  # of a model's weights: themselves, gradient, two moments of the optimiser, moving average
LOGITS_AT_ONCE = 6  # arrays of the logits of a chunk that a loss holds
LOGITS_BESIDE = 4  # as large as a teacher's: the trend, and what sums and sharpness make for a moment
MEASURED_ITEMS = 65_536
PASSES = 4  # over the requests, beside one after each epoch: weights are fitted, and a model is judged by two rules
RANKING = (
    2  # times what a product, a logarithm and the best of it take, which are measured: the sum and the target's rank
)
SNAPSHOT_BYTES = 6  # of each value of the trend's snapshots: itself, and its logarithm
HISTORY_BYTES = 2_000  # of an event whose history the linear model multiplies: 50 items, sparse, and copies
TEXT_BYTES = 6_000  # of an item from whose text the item encoder learns: its words, and copies of vectors
STEPS_A_SECOND = 35  # of that: it runs on one thread
SCORES_OF_SIMILAR = 16  # arrays of pairs x items that are in memory while its weights are chosen
MODELS_OF_SIMILAR = 6  # that are ranked: four parts, the mix, co-occurrence
NEIGHBOUR_BYTES = 40  # of each neighbour of each item, while item-kNN finds them
WORTH_SAYING_S = 120  # a shorter run is told nothing


@dataclass(frozen=True)
class Need:
    """What a stage needs at most. seconds: on this machine, quiet."""

    stage: str
    memory_bytes: int
    seconds: float
    disk_bytes: int


@dataclass(frozen=True)
class _Size:
    """How much there is to learn. targets: events that follow another. n_asked: requests of validation."""

    n_items: int
    targets: int
    n_asked: int


def forecast(config: Config, prepared: Prepared) -> list[Need]:
    """Return what the stages of a run need, in order: teachers, the student with those beside it, what is judged."""
    n_items, events = len(prepared.items), training_events(prepared)
    n_events, n_asked = len(events.item), int((prepared.part == VAL).sum())
    size = _Size(n_items, count_positions(events), n_asked)
    needs = []
    members = parse_names(config, "teacher.members")
    if "linear" in members:
        needs.append(_linear(n_items, n_events))
    for name, settings in (("transformer", config.teacher), ("text", config.teacher), ("twin", config.student)):
        if name in members:
            needs.append(_neural(name, settings, size, n_events))
    needs.append(_mix(config, members, size))
    needs.append(_student(config, members, size))
    weighed = _weighed(config, n_items, n_asked)
    needs = [replace(need, memory_bytes=need.memory_bytes + weighed) for need in needs]
    if config.newcomers.epochs and any(item.title or item.attributes for item in prepared.items):
        steps = steps_of(n_items, config.newcomers.epochs) * (2 - HELD_SHARE)
        needs.append(Need("item encoder", BASE_BYTES + TEXT_BYTES * n_items, steps / STEPS_A_SECOND, 0))
    return [*needs, _similar(config, n_items), _baselines(config, size)]


def forecast_lines(needs: list[Need], available: int | None) -> list[str]:
    """Return what a person is told of it: nothing of a short run that fits.

    available: bytes of memory; None where it is not known.
    """
    most, seconds = max(need.memory_bytes for need in needs), sum(need.seconds for need in needs)
    fits = available is None or most <= available
    if fits and seconds < WORTH_SAYING_S:
        return []
    stages = "; ".join(f"{need.stage} {need.memory_bytes / 1e9:.1f} GB, {need.seconds / 60:.0f} min" for need in needs)
    disk = sum(need.disk_bytes for need in needs) / 1e9
    lines = [
        f"will need at most {most / 1e9:.1f} GB of memory, {disk:.1f} GB of disk and {seconds / 60:.0f} min of a quiet "
        f"machine, less where a training stops early ({stages})"
    ]
    if not fits:
        lines.append(
            f"that is more memory than the {(available or 0) / 1e9:.1f} GB that are free: end other programs, take a "
            "larger machine, leave rarely bought items out of the file, or --set teacher.dim=64"
        )
    return lines


def say_forecast(config: Config, prepared: Prepared) -> list[str]:
    """Return what is to be told of a run whose data were just prepared."""
    return forecast_lines(forecast(config, prepared), available_bytes())


def logits_a_second(dim: int, n_items: int) -> float:
    """Return from how many logits this machine learns in a second, measured on a few: forward, loss and backward."""
    items = torch.randn(min(n_items, MEASURED_ITEMS), dim, requires_grad=True)
    states = torch.randn(256, dim)
    target = torch.zeros(256, dtype=torch.int64)
    seconds = []
    for _ in range(3):
        started = process_time()
        with torch.autocast(choose_device().type, dtype=torch.bfloat16, enabled=choose_device().type == "cpu"):
            logits = states @ items.T
        hard_loss(logits.float(), target).backward()
        seconds.append((process_time() - started) / torch.get_num_threads())
    return 256 * len(items) / float(np.median(seconds))


def scores_a_second(dim: int, n_items: int) -> float:
    """Return how many scores this machine makes and ranks in a second, measured on a few."""
    items, states = torch.randn(min(n_items, MEASURED_ITEMS), dim), torch.randn(256, dim)
    seconds = []
    for _ in range(3):
        started = process_time()
        (states @ items.T).abs_().add_(1).log_().topk(min(100, len(items)))
        seconds.append((process_time() - started) / torch.get_num_threads())
    return 256 * len(items) / float(np.median(seconds)) / RANKING


def _linear(n_items: int, n_events: int) -> Need:
    side = most_items(n_items, available_bytes())
    flops = 2.4 * side**3 + 13 * 2.4 * min(n_items, 4_000) ** 3
    memory = BASE_BYTES + BYTES_A_CELL * side**2 + HISTORY_BYTES * min(n_events, EVENTS_AT_ONCE)
    return Need("linear", memory, flops / 6e10, 2 * side**2)


def _mix(config: Config, members: Sequence[str], size: _Size) -> Need:
    """Return the need of mixing the teachers, which are all in memory with their logits for some requests."""
    n_items = size.n_items
    logits = 4 * min(VALUES_MIXED, USERS * n_items) * (len(members) + LOGITS_BESIDE)
    asked = (1 + len(members)) * min(size.n_asked, most_asked(n_items))
    seconds = asked * n_items / scores_a_second(config.teacher.dim, n_items)
    return Need("mix", BASE_BYTES + BYTES_A_PARAMETER * _parameters(config, members, n_items) + logits, seconds, 0)


def _parameters(config: Config, members: Sequence[str], n_items: int) -> int:
    """Return how many parameters the teachers have at most, all of which the mix and the student ask."""
    side = most_items(n_items, available_bytes()) if "linear" in members else 0
    return side**2 + len(members) * config.teacher.dim * n_items


def _student(config: Config, members: Sequence[str], size: _Size) -> Need:
    """Return the need of the student's trainings: distilled, alone, and from smoothed labels."""
    need, trainings = _neural("student", config.student, size, 0), 3 if config.distill.smoothing else 2
    memory = need.memory_bytes + 4 * _parameters(config, members, size.n_items)
    return Need("student", memory, need.seconds * trainings, need.disk_bytes * trainings)


def _similar(config: Config, n_items: int) -> Need:
    """Return the need of choosing how items that go with others are weighed."""
    dim = config.student.dim
    memory = BASE_BYTES + 4 * n_items * (SCORES_OF_SIMILAR * most_chosen(n_items) + COPIES * dim)
    judged = min(MOST_JUDGED, most_asked(n_items))
    return Need("similar", memory, MODELS_OF_SIMILAR * judged * n_items / scores_a_second(dim, n_items), 0)


def _baselines(config: Config, size: _Size) -> Need:
    """Return the need of the baselines, each of which ranks validation with all of its settings."""
    n_items, names = size.n_items, parse_models(config.baselines.models)
    neighbours = NEIGHBOUR_BYTES * most_neighbours(n_items) if "item_knn" in names else 0
    ranked = sum(len(BASELINES[name].grid) + 1 for name in names) * min(size.n_asked, most_asked(n_items)) * n_items
    return Need("baselines", BASE_BYTES + neighbours, ranked / scores_a_second(config.student.dim, n_items), 0)


def _weighed(config: Config, n_items: int, n_requests: int) -> int:
    """Return the bytes of the trend, and of the parts of scores that a model's weights are fitted to."""
    n_parts = len(parse_names(config, "student.parts"))
    fitted = min(VALUES, n_requests * min(n_items, COLUMNS))
    kept = SNAPSHOT_BYTES * min(MOST_VALUES, MOST_SNAPSHOTS * n_items) if n_parts > 1 else 0
    return kept + 4 * fitted * (n_parts + 1)


def _neural(name: str, settings: Teacher | Student, size: _Size, n_states: int) -> Need:
    """Return the need of training and judging one model, and of writing its states after n_states events."""
    n_items, targets, n_asked = size.n_items, size.targets, size.n_asked
    dim = settings.dim
    positions = min(settings.positions, settings.epochs * targets, max(1, MOST_LOGITS // n_items))
    chunk = max(dim * n_items, CHUNK_LOGITS)
    memory = BASE_BYTES + 4 * (COPIES * dim * n_items + LOGITS_AT_ONCE * chunk)
    passes = PASSES + min(settings.epochs, -(-positions // max(1, targets)))
    seconds = positions * n_items / logits_a_second(dim, n_items)
    seconds += passes * min(n_asked, most_asked(n_items)) * n_items / scores_a_second(dim, n_items)
    return Need(name, memory, seconds, 4 * dim * n_items + 2 * dim * n_states)
