"""The site of a server: which plain HTTP endpoints it has, by its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from ..metrics import CONTENT_TYPE
from .http import NO_STORE, HttpEndpoint, HttpRequest, Response, Site
from .http_broadcasts import HttpBroadcasts
from .inspector import TableList, inspector_endpoints
from .services import Services

__all__ = ["make_site"]


def make_site(
    services: Services,
    *,
    why_not_ready: Callable[[], str | None],
    all_metrics: Callable[[], Awaitable[bytes]] | None = None,
) -> Site:
    """Make the site.

    Args:
        services: of the server.
        why_not_ready: returns why clients would not get changes now; None if they would.
        all_metrics: returns the metrics of all workers, if this is one of several; it raises
            TimeoutError if it cannot. None: the server's own are served.
    """
    config, metrics = services.config, services.metrics
    more: dict[str, HttpEndpoint] = {}
    if config.inspector:
        more |= inspector_endpoints(
            services.authorizer, TableList.of(config), allowed_origins=config.allowed_origins
        )
    if all_metrics is not None and config.expose_metrics:
        more["/metrics"] = _serving(all_metrics)
    is_own = config.expose_metrics and all_metrics is None
    return Site(
        why_not_ready=why_not_ready,
        metrics=metrics.render if is_own else None,
        metrics_type=CONTENT_TYPE,
        more=more,
        paths=HttpBroadcasts(
            services.rooms, services.authorizer, config, metrics, services.private
        ),
    )


def _serving(all_metrics: Callable[[], Awaitable[bytes]]) -> HttpEndpoint:
    async def serve(_: HttpRequest) -> Response:
        try:
            return Response(HTTPStatus.OK, CONTENT_TYPE, await all_metrics(), NO_STORE)
        except TimeoutError:
            return Response(
                HTTPStatus.SERVICE_UNAVAILABLE,
                body=b"the supervisor does not answer\n",
                headers=NO_STORE,
            )

    return serve
