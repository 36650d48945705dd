"""The refit: teachers and student trained once more on every event, with the settings that were chosen.

Nothing is held out, so nothing is measured: the quality that the bundle tells is that of the run's own student.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.distillation.source import Source
from training.distillation.student import STUDENT, Taught
from training.distillation.teaching import learn_from
from training.evaluation.trained import train_or_load
from training.model.fit import Course
from training.teacher.kind import Offer


def refit_student(out: Path, n_items: int, course: Course, offers: Sequence[Offer], taught: Taught) -> None:
    """Train the student on what refitted teachers offer and write it into out.

    course: that of open_refit_course, on whose events the offers must be.
    """
    popularity = np.bincount(course.events.item, minlength=n_items).astype(np.float64)
    source = Source.of(offers, popularity)
    seed = course.schedule.seed
    student = taught.make(n_items, seed, source)
    train_or_load(out / STUDENT, student, learn_from(source, taught.recipe, seed), course)
