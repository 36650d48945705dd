"""From a bundle to a generation that is ready to answer, with the store and the settings of this service."""

from pathlib import Path

from service.bundle import HistoryTypes
from service.composition.storage import history_of, trend_of
from service.item.feed import ItemFeed
from service.logs import Log
from service.metrics import Metrics
from service.model.model import load_model
from service.recommendation.explanation import Explainer
from service.recommendation.lookup import Lookup
from service.recommendation.memory import Memory
from service.recommendation.observer import Unwatched
from service.recommendation.ranker import Ranker
from service.recommendation.recommender import Recommender
from service.release.aside import Aside
from service.release.generation import Generation
from service.settings import Settings
from service.store.client import Store
from service.user.embedding import EmbeddingCache
from service.user.erasure import Erasures
from service.user.history import History
from service.user.key import UserKeys


def codes_of(settings: Settings) -> Path:
    """Return where the codes of large catalogues are kept."""
    return settings.data_dir / "index"


class GenerationLoader:
    """Makes generations out of bundles, all with the same store and settings."""

    def __init__(
        self, settings: Settings, store: Store, erasures: Erasures, feed: ItemFeed, metrics: Metrics, log: Log
    ) -> None:
        """feed: of the live items, which are in a generation from its start."""
        self._settings, self._store, self._erasures, self._metrics, self._log = settings, store, erasures, metrics, log
        self._feed = feed

    def load(self, path: Path, number: int) -> Generation:
        """Load a bundle, hold it against its golden answers, and warm it. Raises StartError."""
        model = load_model(path, kind=self._settings.index, codes=codes_of(self._settings), warn=self._warn)
        manifest, catalogue = model.manifest, model.catalogue
        history = history_of(self._settings, self._store)
        embeddings = self._embeddings(history, manifest.dim, manifest.version)
        memory = Memory(self._settings.memory_users, lambda: self._erasures.is_heard)
        lookup = Lookup(history, embeddings, catalogue, memory, self._metrics)
        ranker = Ranker(model.student, catalogue, self._metrics, max_history=manifest.max_history)
        explainer = Explainer(ranker, model.student, self._metrics)
        recommender = Recommender(catalogue, lookup, ranker, explainer, self._metrics)
        recommender.warm()
        quiet = Ranker(model.student, catalogue, Unwatched(), max_history=manifest.max_history)
        for _ in self._feed.bring(catalogue):
            pass
        trend = trend_of(self._settings, self._store, catalogue, HistoryTypes(manifest.history_types))
        made = Generation(manifest, catalogue, recommender, Aside(quiet, catalogue, history), number, trend)
        made.golden_histories = model.golden_histories
        return made

    def _embeddings(self, history: History, dim: int, version: str) -> EmbeddingCache:
        keys, ttl_s = UserKeys(self._settings.namespace), max(1, round(self._settings.embedding_ttl_hours * 3600))
        return EmbeddingCache(self._store, keys, history, ttl_s=ttl_s, dim=dim, version=version)

    def _warn(self, message: str) -> None:
        self._log.write("warning", "index", message=message)
