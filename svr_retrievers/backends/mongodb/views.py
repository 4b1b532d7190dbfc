"""Indexes of their own for large partitions: over a view each, or over a vector field each."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import anyio

from svr_retrievers.backends.mongodb import targets
from svr_retrievers.backends.mongodb.indexing import SearchIndexes
from svr_retrievers.backends.mongodb.targets import Physical, Target, index_name
from svr_retrievers.backends.protocol import CollectionConfig, CollectionRef, MapState
from svr_retrievers.concurrency import first_error
from svr_retrievers.control.mongodb_fence import Session
from svr_retrievers.errors import ConfigError, IndexLimitReached
from svr_retrievers.model import Partition, PartitionMap

VIEW_FROM_ROWS: Final = 10_000
"""A partition of so many rows gets an index of its own, where its graph is smaller than the one over all."""
_CLAIM_SECONDS: Final = 60
"""A client that builds indexes renews its claim; one that died is taken for dead after so long."""
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
            self.check_mode(ref.config)
            return 0
        owner = uuid.uuid4().hex
        if not due or not await self._catalog.claim_building(ref, owner, _CLAIM_SECONDS):
            return 0  # another client is at it
        made = 0
        try:
            with first_error():
                async with anyio.create_task_group() as beside:
                    beside.start_soon(self._hold, ref, owner)
                    made = await self._promote_each(ref, due)
                    beside.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._catalog.release_building(ref, owner)
        return made

    def check_mode(self, config: CollectionConfig) -> None:
        """Raises ConfigError where views are asked for that the server cannot index."""
        if config.index.mode == "views" and not self._deployment.has_views:
            version = ".".join(map(str, self._deployment.version))
            raise ConfigError(
                f"An index over a view needs MongoDB 8.1; this is {version}.",
                hint="Upgrade, or use hnsw(mode='source'): one index that filters by partition.",
            )

    async def _hold(self, ref: CollectionRef, owner: str) -> None:
        """Keeps the claim while indexes are built, which may take hours."""
        while True:
            await anyio.sleep(_CLAIM_SECONDS / 4)
            await self._catalog.claim_building(ref, owner, _CLAIM_SECONDS)

    async def _promote_each(self, ref: CollectionRef, due: Sequence[Partition]) -> int:
        await self.load(ref)
        await self._sweep(ref)
        made = 0
        for partition in due:
            try:
                made += await self._promote(ref, partition)
            except IndexLimitReached as error:
                if ref.config.index.mode == "views":
                    raise
                _log.info("no further index for partitions of %r: %s", ref.config.name, error)
                break
        physical = await self.physical(ref)
        if set(physical.rest.excluded) != physical.own:
            await self._renew_rest(ref)
        return made

    async def _sweep(self, ref: CollectionRef) -> None:
        """Takes away views that a client left which ended while it made them."""
        physical = await self.physical(ref)
        named = {target.view for target in physical.targets}
        prefix = f"{self._settings.db_schema}.view.{ref.id}."
        database = self._catalog.majority
        for name in await database.list_collection_names():
            if name.startswith(prefix) and name not in named:
                number = int(name.removeprefix(prefix))
                await self._drop_view(ref, Target(index_name(ref.id, number), name))
        if physical.rest.view is not None and ref.config.source is None:
            await self._drop_index(self.documents(ref), index_name(ref.id, 0))

    async def _due(self, ref: CollectionRef, known: PartitionMap) -> list[Partition]:
        physical = await self.physical(ref)
        own = {target.partition for target in physical.targets}
        least = VIEW_FROM_ROWS if ref.config.index.mode == "auto" else max(1, ref.config.index.min_rows)
        large = [leaf for leaf in known.leaves if leaf.stats.rows >= least and leaf.id not in own]
        alone = len(known.leaves) < 2
        return [] if alone else sorted(large, key=lambda leaf: -leaf.stats.rows)

    async def _promote(self, ref: CollectionRef, partition: Partition) -> bool:
        if partition.id in (await self.physical(ref)).own:
            return False
        return await self._make(ref, await self._new_target(ref, partition.id))

    async def _renew_rest(self, ref: CollectionRef) -> None:
        """A new index over what has no index of its own takes the place of the one that held more."""
        physical = await self.physical(ref)
        old = physical.rest
        target = replace(await self._new_target(ref, None), excluded=tuple(sorted(physical.own)))
        try:
            made = await self._make(ref, target)
        except IndexLimitReached as error:
            _log.info("the index over all of %r stays as it is: %s", ref.config.name, error)
            return
        if made:
            await self._drop_view(ref, old)

    async def _make(self, ref: CollectionRef, target: Target) -> bool:
        """Builds the target's view and index, waits for them and switches; False where it came too late."""
        try:
            await self._make_view(ref, target)
            await self.create_index(ref, await self.physical(ref), target)
            await self.wait_ready(ref, target)
            await self.wait_caught_up(ref, target)
            switched = await self._switch(ref, replace(target, ready=True))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._drop_view(ref, target)
            raise
        if not switched:
            await self._drop_view(ref, target)
        return switched

    async def _new_target(self, ref: CollectionRef, partition: int | None) -> Target:
        """Under a name that nobody else was given."""
        number = await self._catalog.next_index(ref)
        return Target(
            index_name(ref.id, number), f"{self._settings.db_schema}.view.{ref.id}.{number}", partition
        )

    async def _make_view(self, ref: CollectionRef, target: Target) -> None:
        assert target.view is not None
        database = self._catalog.majority
        stages, name = targets.view_stages(target), self.documents_name(ref)
        await database.create_collection(target.view, viewOn=name, pipeline=stages)

    async def _drop_view(self, ref: CollectionRef, target: Target) -> None:
        await self._drop_index(self.named(target, ref), target.name)
        self._freshness.forget(target.name)
        if target.view is not None:
            await self._catalog.majority.drop_collection(target.view)

    async def _switch(self, ref: CollectionRef, target: Target) -> bool:
        """Searches use the index from the next generation on; False where it no longer fits what is there."""
        switched = False

        async def switch(session: Session, state: MapState) -> bool:  # noqa: ARG001
            nonlocal switched
            known = Physical.of_json(await self._catalog.physical(ref, session))
            changed = known.taking(target)
            switched = changed is not None
            if changed is not None:
                await self._catalog.save_physical(ref, changed.to_json(), session)
            return switched

        self.adopt(ref, *await self._catalog.changing(ref, switch))
        return switched

    # Fields

    async def make_fields(self, ref: CollectionRef) -> None:
        """Tells the index of the fields of new partitions; rows are compared one by one until it holds them."""
        physical = await self.physical(ref)
        if not physical.fields:
            return
        found = await self._listed(ref, physical.rest)
        if found is None:
            await self.create_index(ref, physical, physical.rest)
        elif not self._is_wanted(found, ref, physical):
            await self.update_index(ref, physical, physical.rest)
