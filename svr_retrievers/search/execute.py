"""A search from the checked request to the result: route, fan out, merge, widen, explain shortfalls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio

from svr_retrievers.backends.protocol import (
    Backend,
    Candidate,
    CollectionRef,
    Page,
    Query,
    StaleMap,
)
from svr_retrievers.concurrency import NeedsLoop, on_loop
from svr_retrievers.errors import DeadlineExceeded, InputError, NotFound, SVRError, UsageError
from svr_retrievers.filters import ALL
from svr_retrievers.filters.selectivity import estimates
from svr_retrievers.model import (
    Hit,
    Incomplete,
    Metric,
    Route,
    RoutedPartition,
    SearchResult,
    Timings,
    Vector,
)
from svr_retrievers.routing.plan import Planned, Wish
from svr_retrievers.search.fanout import Answers, failure, fan_out, late
from svr_retrievers.search.merge import merge
from svr_retrievers.search.request import Request
from svr_retrievers.search.view import View


@dataclass(frozen=True, slots=True)
class Engine:
    """What a search runs with: the store, the collection, and the limits."""

    backend: Backend
    ref: CollectionRef
    concurrency: int

    async def route(self, view: View, wish: Wish, vector: Vector | None) -> Planned:
        """By closeness only where there is a vector, which is empty where the server embeds."""
        config = self.ref.config
        near = vector if vector is not None and vector.size else None
        return await view.route(config.scheme, wish, near, target=config.recall_target)

    async def ask(
        self,
        view: View,
        planned: Planned,
        request: Request,
        vector: Vector,
        ids: Sequence[int],
        seconds: float,
    ) -> Answers:
        """The pages of these partitions, under the request's policy."""
        query = query_for(view, request, vector, planned, tuple(ids), seconds)
        shards = self.backend.shards(self.ref, view.map, ids)
        if len(shards) == 1:
            return Answers(pages=[await self._only(view, query)])

        async def one(shard: tuple[int, ...]) -> Page:
            return await self.backend.search(self.ref, view.map, replace(query, partitions=shard))

        if not on_loop():
            raise NeedsLoop
        return await fan_out(
            shards,
            one,
            timeout_seconds=seconds,
            concurrency=self.concurrency,
            on_failure=request.on_failure,
            path_of=view.path,
        )

    async def _only(self, view: View, query: Query) -> Page:
        """One shard needs no tasks, and nothing is left to be partial about when it fails."""
        seconds = query.timeout_seconds
        try:
            if not on_loop():
                return await self.backend.search(self.ref, view.map, query)
            with anyio.fail_after(seconds):
                return await self.backend.search(self.ref, view.map, query)
        except TimeoutError:
            raise late(query.partitions, seconds, view.path) from None
        except (SVRError, StaleMap, NeedsLoop):
            raise
        except Exception as error:
            raise failure({query.partitions: error}, 1, view.path) from error


def query_for(
    view: View,
    request: Request,
    vector: Vector,
    planned: Planned,
    ids: tuple[int, ...],
    seconds: float | None,
) -> Query:
    """`ef_search` as asked for, else as the recall target takes it."""
    return Query(
        vector=vector,
        limit=request.limit,
        namespace=request.namespace,
        filter=planned.filter,
        partitions=ids,
        exact=request.exact,
        ef_search=request.ef_search if request.ef_search is not None else planned.ef_search,
        with_vectors=request.with_vectors,
        timeout_seconds=seconds,
        estimates=None
        if planned.filter == ALL
        else estimates(planned.filter, view.state.field_statistics, ids),
        alone=view.state.field_statistics.alone(request.namespace),
        text=None if vector.size else request.text,
    )


async def run(
    engine: Engine,
    view: View,
    request: Request,
    wish: Wish,
    vector: Vector,
    *,
    timeout_seconds: float,
    embed_ms: float = 0.0,
) -> SearchResult:
    """One search on one map. Raises StaleMap when the map moved on; the caller loads it and calls again."""
    started = time.perf_counter()
    deadline = started + timeout_seconds
    planned = await engine.route(view, wish, vector)
    routed = time.perf_counter()
    route = planned.route
    if not route.partitions:
        return _nothing(request, route, (routed - started) * 1e3, embed_ms)
    answers = await engine.ask(
        view, planned, request, vector, [p.id for p in route.partitions], timeout_seconds
    )
    found = _merged(answers, request.limit)
    if len(found) < request.limit and planned.aside and not (answers.failed or answers.late):
        wider = await _wider(engine, view, planned, request, vector, deadline, timeout_seconds)
        found = merge([found, *(page.candidates for page in wider.pages)], request.limit)
        answers = _joined(answers, wider)
        route = _widened(planned) if wider.pages else route
    metric = engine.ref.config.metric
    hits = hits_of(found, view, metric)
    done = time.perf_counter()
    return SearchResult(
        hits,
        limit=request.limit,
        route=route,
        incomplete=shortfall(request, answers, len(hits), view),
        timings=Timings(
            embed_ms=embed_ms,
            route_ms=(routed - started) * 1e3,
            search_ms=(done - routed) * 1e3,
            total_ms=(done - started) * 1e3 + embed_ms,
        ),
    )


def _merged(answers: Answers, limit: int) -> Sequence[Candidate]:
    if len(answers.pages) == 1:
        return answers.pages[0].candidates[:limit]
    return merge((page.candidates for page in answers.pages), limit)


async def _wider(
    engine: Engine,
    view: View,
    planned: Planned,
    request: Request,
    vector: Vector,
    deadline: float,
    timeout_seconds: float,
) -> Answers:
    """The pages of the partitions left aside. Under `partial` their failure does not undo what was found."""
    aside = tuple(p.id for p in planned.aside)
    try:
        left = _left(deadline, timeout_seconds)
        return await engine.ask(view, planned, request, vector, aside, left)
    except (InputError, NotFound, UsageError):
        raise
    except SVRError as error:
        if request.on_failure == "fail":
            raise
        late = isinstance(error, DeadlineExceeded)
        return Answers(late=[aside]) if late else Answers(failed={aside: error})


def _left(deadline: float, timeout_seconds: float) -> float:
    left = deadline - time.perf_counter()
    if left <= 0:
        raise DeadlineExceeded(
            f"The search did not end within {timeout_seconds:g} s.", hint="Raise timeout_seconds."
        )
    return left


def _joined(first: Answers, second: Answers) -> Answers:
    return Answers(
        pages=first.pages + second.pages, failed=first.failed | second.failed, late=first.late + second.late
    )


def _widened(planned: Planned) -> Route:
    """The closest partitions held too few matches, so the ones left aside were searched as well."""
    extra = tuple(RoutedPartition(p.id, p.path, "too few matches in the closest ones") for p in planned.aside)
    return replace(
        planned.route, partitions=planned.route.partitions + extra, estimated_recall=1.0, widened=True
    )


def hits_of(found: Sequence[Candidate], view: View, metric: Metric) -> list[Hit]:
    paths = {number: view.path(number) for number in {candidate.partition for candidate in found}}
    return [
        Hit(
            doc_id,
            metric.score(distance),
            text,
            metadata,
            paths[partition],
            distance,
            metric.relevance(distance),
            namespace,
            version,
            vector,
        )
        for namespace, doc_id, text, metadata, version, partition, distance, vector in found
    ]


def _nothing(request: Request, route: Route, route_ms: float, embed_ms: float) -> SearchResult:
    reason = Incomplete("few_matches", "the collection is empty")
    timings = Timings(embed_ms=embed_ms, route_ms=route_ms, total_ms=route_ms + embed_ms)
    return SearchResult((), limit=request.limit, route=route, incomplete=reason, timings=timings)


def shortfall(request: Request, answers: Answers, found: int, view: View) -> Incomplete | None:
    """Why the result is not the full answer; None when it is."""
    if answers.failed:
        paths = tuple(view.path(p) for shard in answers.failed for p in shard)
        cause = next(iter(answers.failed.values()))
        return Incomplete("partition_failed", f"{len(paths)} partitions failed: {cause}", paths)
    if answers.late:
        paths = tuple(view.path(p) for shard in answers.late for p in shard)
        return Incomplete("deadline", f"{len(paths)} partitions did not answer in time", paths)
    if answers.waiting:
        return Incomplete("not_indexed", _waiting(answers.waiting))
    if found >= request.limit:
        return None
    if not answers.exact:
        return approximate(found, request.limit)
    where = " in the partitions asked for" if request.partitions is not None else ""
    return Incomplete("few_matches", _few(found, filtered=bool(request.filter)) + where)


def approximate(found: int, limit: int) -> Incomplete:
    return Incomplete("approximate", f"the index found {found} of {limit}; exact=True looks at every row")


def _waiting(rows: int) -> str:
    if rows == 1:
        return "1 matching document waits for the server to embed it; refresh() waits for that"
    return f"{rows:,} matching documents wait for the server to embed them; refresh() waits for that"


def _few(found: int, *, filtered: bool) -> str:
    if found == 0:
        return "no document matches the filter" if filtered else "there is no document"
    if found == 1:
        return "only 1 document matches the filter" if filtered else "there is only 1 document"
    return f"only {found} documents match the filter" if filtered else f"there are only {found} documents"
