"""What the versions show, as metrics: how much of the catalogue, how unequally, and how many live items.

Coverage and the Gini coefficient are those of the live version's lists, from the moment it was loaded; each worker has
its own, and the one that has shown most is told.
"""

import asyncio

import numpy as np

from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.release.generation import Generations

EVERY_S = 5.0


async def follow_showing(metrics: Metrics, generations: Generations) -> None:
    """Set the metrics of what is shown every five seconds, until this is cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        await tell_showing(metrics, generations)


async def tell_showing(metrics: Metrics, generations: Generations) -> None:
    """Set the metrics of what is shown. What takes long for a large catalogue is done in another thread."""
    for catalogue in generations.catalogues():
        made, live = catalogue.shown.take()
        metrics.shown_items["made"].inc(made)
        metrics.shown_items["live"].inc(live)
    catalogue = generations.live.catalogue
    n_items, n_new = _count_items(catalogue)
    coverage, gini = await asyncio.to_thread(catalogue.shown.measure, n_items)
    metrics.shown_coverage.set(coverage)
    metrics.shown_gini.set(gini)
    metrics.new_items.set(n_new)


def _count_items(catalogue: Catalogue) -> tuple[int, int]:
    """Return how many items may be shown, and how many of them are not the bundle's."""
    withdrawn = np.fromiter(catalogue.live.withdrawn, dtype=np.int64)
    n_new = len(catalogue) - catalogue.n_made - int((withdrawn >= catalogue.n_made).sum())
    return len(catalogue) - len(withdrawn), n_new
