"""What events do where no service is asked: as the live version says, else the bundle of the settings."""

from service.bundle import BundleError, HistoryTypes, parse_manifest, read_manifest
from service.errors import RefusedError, StartError, StoreError
from service.release.published import PublishedVersions
from service.settings import Settings
from service.store.client import Store


async def find_types(settings: Settings, store: Store) -> HistoryTypes:
    """Return what each type of event does by the version that the service would serve now. Raises StartError.

    Where neither the store nor the settings know a version, the types are those of a bundle that says nothing of them.
    """
    published = PublishedVersions(store, settings.namespace)
    try:
        if (live := await published.live()) is not None:
            text = (await published.table(live.version)).manifest
            return HistoryTypes(parse_manifest(text, f"version {live.version}").history_types)
        return HistoryTypes(read_manifest(settings.bundle).history_types if settings.bundle else None)
    except (StoreError, RefusedError, BundleError) as exc:
        raise StartError(f"which types of events enter histories is not known: {exc}") from exc
