"""An honest stand-in for the service's commands: a list of accepted events, and the name of the live version."""

import gzip
import json

from service.bundle import read_manifest
from training.errors import InputError
from training.loop.service_command import Exported


class LogService:
    """A log in memory. fails: the next calls that are to fail, by name. told: what refreshes said of the agreement."""

    def __init__(self, live):
        self.live, self.events, self.gone, self.fails, self.told = live, [], 0, set(), []
        self.beside, self.before = None, None

    def live_version(self):
        self._fail("status")
        return self.live

    def tried(self):
        self._fail("tried")
        return self.beside

    def wanted(self):
        self._fail("wanted")
        return [self.before] if self.before else []

    def export(self, path, after):
        self._fail("export")
        first = int(after.partition("@")[2]) if after else 0
        is_anew = first > len(self.events)
        first = 0 if is_anew else first
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(event) + "\n" for event in self.events[first:])
        n = len(self.events)
        return Exported(n - first, f"1-{n}@{n}", self.gone, is_anew)

    def publish(self, bundle, live):
        if live != self.live:
            raise InputError(f"service publish: {self.live} is live, not {live}")
        if self.beside:
            raise InputError(f"service publish: {self.beside}")
        self.before, self.live = self.live, read_manifest(bundle).version
        self._fail("publish")  # the answer was lost

    def note_agreement(self, live, offline, least):
        self._fail("agreement")
        self.told.append((live, offline, least))

    def _fail(self, name):
        if name in self.fails:
            self.fails.discard(name)
            raise InputError(f"service {name}: the store does not answer")
