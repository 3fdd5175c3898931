"""The first half of a run: scan what was asked for and plan the work. Changes only the list of roots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from clipsearch.errors import UsageError
from clipsearch.folder import Writer
from clipsearch.paths import display
from clipsearch.store import KnownFile, RootRow, SpaceRow
from clipsearch_indexer.contract import Options, Progress, Summary
from clipsearch_indexer.places import Place, State, home_of, is_doubtful, is_offline, look_at, places
from clipsearch_indexer.plan import Plan, make_plan
from clipsearch_indexer.scan import Found
from clipsearch_indexer.scanner import Scanner
from clipsearch_indexer.shield import Shield
from clipsearch_indexer.unopened import unopened


class Survey:
    """Plans for one run and one model; `summary` is told what there is nothing to do about."""

    def __init__(
        self,
        writer: Writer,
        space: SpaceRow,
        options: Options,
        summary: Summary,
        report: Callable[[Progress], None],
        shield: Shield,
    ) -> None:
        self._writer = writer
        self._space = space
        self._options = options
        self._summary = summary
        self._shield = shield
        self._scanner = Scanner(options, writer.catalog_uri, report)
        with writer.reading() as catalog:
            self._roots = catalog.roots.all()
        self._pending = self._pending_images()

    def plans(self, wanted: Sequence[bytes]) -> list[Plan]:
        """A plan for each place of `wanted` (empty: every known root) that can be reached.

        Raises UsageError for a path that is not there and of which nothing is known.
        """
        for path in wanted:
            if home_of(path, self._roots) is None and look_at(path)[0] == "missing":
                raise _nothing_there(path)
        if not wanted or not self._space.active:  # a new model answers once it has embedded everything
            wanted = [*wanted, *(root.path for root in self._roots)]
        plans = [self._plan(place) for place in places(wanted, self._roots)]
        return [plan for plan in plans if plan is not None]

    def _plan(self, place: Place) -> Plan | None:
        """Scan a place; None if it cannot be reached."""
        home = home_of(place.path, self._roots)
        state, filesystem = look_at(place.path)
        if home is None:
            home = self._new_root(place.path, filesystem)
        known: Mapping[bytes, KnownFile] = {}
        if is_doubtful(place, home, state, filesystem):
            with self._writer.reading() as catalog:
                known = place.rows(catalog.known.files(home.id), home)
        if state == "missing" and place.path != home.path and not known:
            raise _nothing_there(place.path)
        offline = is_offline(place, home, known, state, filesystem)
        self._note_state(place, home, not offline, filesystem)
        if offline:
            self._summary.offline.append(place.path)
            return None
        plan = self._compare(place, home, state)
        self._summary.unchanged += plan.unchanged
        self._summary.quarantined += plan.quarantined
        self._summary.unscanned += [(entry.path, entry.reason) for entry in plan.unscanned]
        return plan

    def _compare(self, place: Place, home: RootRow, state: State) -> Plan:
        with self._writer.reading() as catalog, self._shield.let_through():
            failures = place.rows(catalog.known.failures(home.id), home)
            shards = [shard for shard in catalog.known.shards(home.id) if place.holds(shard.path)]
            met: list[Found] = []
            if state == "missing":  # a single file, or a shard, that has vanished
                known = place.rows(catalog.known.files(home.id), home)
            else:
                pending = list(chain(*self._pending.values()))
                shut = unopened(shards, place, self._options, failures, pending)
                doubtful = chain(failures, pending)
                met, left = self._scanner.look_over(catalog.known, place, home, doubtful, shut)
                known = catalog.known.files_at(home.id, left)  # what the scan did not settle

            def lacks_embedding(row: KnownFile) -> bool:
                if row.missing:  # and so not among the pending images, which are visible
                    return catalog.search.slot_of_image(self._space.id, row.image_id) is None
                if row.image_id not in self._pending:
                    return False
                del self._pending[row.image_id]  # one of its files is enough
                return True

            plan = make_plan(home, place, met, known, failures, lacks_embedding)
        plan.outdated = [shard.path for shard in shards if shard.path not in plan.unopened]
        return plan

    def _pending_images(self) -> dict[int, tuple[bytes, ...]]:
        """Visible images that this model has not embedded, with their paths."""
        found: dict[int, tuple[bytes, ...]] = {}
        with self._writer.reading() as catalog:
            if not catalog.known.count_pending(self._space.id):  # a third of the time of finding none
                return found
            last = 0
            while page := catalog.known.pending(self._space.id, after_id=last):
                last = page[-1].image_id
                found.update((image.image_id, image.paths) for image in page)
        return found

    def _new_root(self, path: bytes, filesystem: str) -> RootRow:
        with self._writer.changing() as catalog:
            catalog.roots.add(path, filesystem)
            root = catalog.roots.get(path)
        assert root is not None
        self._roots.append(root)
        return root

    def _note_state(self, place: Place, home: RootRow, online: bool, filesystem: str) -> None:
        """Note that a root can be reached, or that it cannot; a folder within one says nothing about it."""
        if place.path != home.path:
            return
        new_id = filesystem if online and filesystem and filesystem != home.filesystem_id else None
        if online != home.online or new_id is not None:
            with self._writer.changing() as catalog:
                catalog.roots.set_online(home.id, online, filesystem_id=new_id)


def _nothing_there(path: bytes) -> UsageError:
    return UsageError(f"There is nothing at {display(path)} that could be read.")
