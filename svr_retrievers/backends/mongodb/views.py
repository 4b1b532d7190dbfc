"""Indexes of their own for large partitions: over a view each, or over a vector field each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pymongo.errors import CollectionInvalid

from svr_retrievers.backends.mongodb import targets
from svr_retrievers.backends.mongodb.indexing import SearchIndexes
from svr_retrievers.backends.mongodb.targets import Physical, Target, index_name
from svr_retrievers.backends.protocol import CollectionRef, MapState
from svr_retrievers.control.mongodb_fence import Session
from svr_retrievers.errors import ConfigError, IndexLimitReached
from svr_retrievers.model import Partition, PartitionMap

VIEW_FROM_ROWS: Final = 10_000
"""A partition of so many rows gets an index of its own, where its graph is smaller than the one over all."""
_log = logging.getLogger(__name__)


class Views(SearchIndexes):
    """The calls that give partitions indexes of their own."""

    async def complete_indexes(
        self, ref: CollectionRef, known: PartitionMap, progress: Callable[[int, int], None] | None
    ) -> int:
        """Makes the indexes that are due and waits until each holds every row; how many were made or became ready."""
        made = await self._newly_ready(ref) + await self._promoted(ref, known)
        physical = await self.physical(ref)
        if physical.mode == "fields" and not physical.fields:
            return made
        rows = known.rows
        for target in physical.targets:
            if progress is not None:
                progress(0, rows)
            was_ready = self._freshness.of(target.name).ready
            await self.wait_ready(ref, target)
            await self.wait_caught_up(ref, target)
            made += not was_ready
        if progress is not None:
            progress(rows, rows)
        return made

    async def _newly_ready(self, ref: CollectionRef) -> int:
        """Looks once at each index that was not ready; how many are now."""
        physical = await self.physical(ref)
        found = 0
        for target in physical.targets:
            if not target.ready and await self.advance(ref, target):
                found += 1
        return found

    # Views

    async def _promoted(self, ref: CollectionRef, known: PartitionMap) -> int:
        """Gives large partitions a view and an index; a tier that is full ends it, or is an error where asked for."""
        mode = ref.config.index.mode
        if mode not in ("views", "auto") or ref.config.embedding is not None:
            return 0
        due = await self._due(ref, known)
        if due and not self._deployment.has_views:
            if mode == "views":
                raise ConfigError(
                    f"An index over a view needs MongoDB 8.1; this is {'.'.join(map(str, self._deployment.version))}.",
                    hint="Upgrade, or use hnsw(mode='source'): one index that filters by partition.",
                )
            return 0
        made = 0
        for partition in due:
            try:
                await self._promote(ref, partition)
            except IndexLimitReached as error:
                if mode == "views":
                    raise
                _log.info("no further index for partitions of %r: %s", ref.config.name, error)
                break
            made += 1
        if made:
            await self._renew_rest(ref)
        return made

    async def _due(self, ref: CollectionRef, known: PartitionMap) -> list[Partition]:
        physical = await self.physical(ref)
        own = {target.partition for target in physical.targets}
        least = VIEW_FROM_ROWS if ref.config.index.mode == "auto" else max(1, ref.config.index.min_rows)
        large = [leaf for leaf in known.leaves if leaf.stats.rows >= least and leaf.id not in own]
        alone = len(known.leaves) < 2
        return [] if alone else sorted(large, key=lambda leaf: -leaf.stats.rows)

    async def _promote(self, ref: CollectionRef, partition: Partition) -> None:
        physical = await self.physical(ref)
        target = self._new_target(ref, physical, partition.id)
        await self._make_view(ref, target)
        try:
            await self.create_index(ref, physical, target)
            await self.wait_ready(ref, target)
            await self.wait_caught_up(ref, target)
        except BaseException:
            await self._drop_view(ref, target)
            raise
        await self._switch(ref, replace(target, ready=True))

    async def _renew_rest(self, ref: CollectionRef) -> None:
        """A new index over what has no index of its own takes the place of the one that held more."""
        physical = await self.physical(ref)
        old = physical.rest
        own = tuple(sorted(t.partition for t in physical.targets if t.partition is not None))
        target = replace(self._new_target(ref, physical, None), excluded=own)
        await self._make_view(ref, target)
        try:
            await self.create_index(ref, physical, target)
            await self.wait_ready(ref, target)
            await self.wait_caught_up(ref, target)
        except IndexLimitReached as error:
            _log.info("the index over all of %r stays as it is: %s", ref.config.name, error)
            await self._drop_view(ref, target)
            return
        except BaseException:
            await self._drop_view(ref, target)
            raise
        await self._switch(ref, replace(target, ready=True), instead=old)
        await self._drop_view(ref, old)

    def _new_target(self, ref: CollectionRef, physical: Physical, partition: int | None) -> Target:
        name = index_name(ref.id, physical.named)
        return Target(name, f"{self._settings.db_schema}.view.{ref.id}.{physical.named}", partition)

    async def _make_view(self, ref: CollectionRef, target: Target) -> None:
        assert target.view is not None
        database = self._catalog.majority
        stages, name = targets.view_stages(target), self.documents_name(ref)
        try:
            await database.create_collection(target.view, viewOn=name, pipeline=stages)
        except CollectionInvalid:  # left by a build that was interrupted
            await self._drop_view(ref, target)
            await database.create_collection(target.view, viewOn=name, pipeline=stages)

    async def _drop_view(self, ref: CollectionRef, target: Target) -> None:
        await self._drop_index(self.named(target, ref), target.name)
        self._freshness.forget(target.name)
        if target.view is not None:
            await self._catalog.majority.drop_collection(target.view)

    async def _switch(self, ref: CollectionRef, target: Target, instead: Target | None = None) -> None:
        """Searches use the index from the next generation on."""

        async def switch(session: Session, state: MapState) -> bool:  # noqa: ARG001
            physical = await self._catalog.physical(ref, session)
            known = Physical.of_json(physical).with_target(target)
            kept = tuple(t for t in known.targets if instead is None or t.name != instead.name)
            changed = replace(known, targets=kept, named=known.named + 1)
            await self._catalog.save_physical(ref, changed.to_json(), session)
            return True

        self.adopt(ref, *await self._catalog.changing(ref, switch))

    # Fields

    async def name_fields(self, ref: CollectionRef, known: PartitionMap) -> None:
        """Adds the fields of new partitions to the index's definition; rows are compared one by one until then."""
        physical = await self.physical(ref)
        wanted = tuple(leaf.id for leaf in known.leaves)
        if set(wanted) <= set(physical.fields):
            return

        async def name(session: Session, state: MapState) -> bool:  # noqa: ARG001
            newest = Physical.of_json(await self._catalog.physical(ref, session))
            both = tuple(sorted({*newest.fields, *wanted}))
            targets_now = tuple(replace(target, ready=False) for target in newest.targets)
            changed = replace(newest, fields=both, targets=targets_now)
            await self._catalog.save_physical(ref, changed.to_json(), session)
            return True

        self.adopt(ref, *await self._catalog.changing(ref, name))
        changed = self._physical[ref.id]
        self._freshness.of(changed.rest.name).ready = False
        if await self._listed(ref, changed.rest) is None:
            await self.create_index(ref, changed, changed.rest)
        else:
            await self.update_index(ref, changed, changed.rest)
