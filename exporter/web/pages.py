"""The pages for people and probes: the start page, ``/-/healthy`` and ``/-/ready``."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from http import HTTPStatus
from typing import Final

from exporter import __version__
from exporter.core.detection.explanation import duration
from exporter.detector.snapshot import SeriesStatus, Snapshot
from exporter.reading.backfill import BackfillStatus
from exporter.web.http import Request, Response, text

_SHOWN_ENDPOINTS: Final = 200
_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --good: #2e7d32; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
progress { width: 100%; height: 1rem; } .bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); }
.why { background: var(--soft); border-left: 4px solid var(--bad); padding: .6rem 1rem; margin: .6rem 0; }
small { opacity: .75; }
"""
_LINKS: Final = '<a href="/metrics">metrics</a> · <a href="/-/ready">ready</a> · <a href="/-/healthy">healthy</a>'
_COLUMNS: Final = (
    '<tr><th>service<th>endpoint<th class="n">p50 now<th class="n">usual<th class="n">p95 now<th class="n">usual'
    '<th class="n">traces<th class="n">score<th>baseline</tr>'
)
_LEVELS: Final = {1: "exact hour", 2: "nearby hours", 3: "type of day", 4: "everything", 5: "unavailable"}


def healthy(request: Request) -> Response:  # noqa: ARG001 - the signature is that of every page
    """200 while the process works."""
    return text("tempo-anomaly-exporter is healthy")


def ready(snapshot: Snapshot | None) -> Response:
    """200 once there is a snapshot to scrape."""
    if snapshot is None:
        return text("not ready: the current traffic has not been read yet", HTTPStatus.SERVICE_UNAVAILABLE)
    return text("tempo-anomaly-exporter is ready")


class StartPage:
    """What is watched, what is anomalous, and how far the history has been read."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        backfill: Callable[[], BackfillStatus | None],
        tempo_url: str,
        clock: Callable[[], float],
    ) -> None:
        self._snapshot = snapshot
        self._backfill = backfill
        self._tempo_url = tempo_url
        self._clock = clock

    def __call__(self, request: Request) -> Response:  # noqa: ARG002 - it is the same for everybody
        """The page."""
        snapshot = self._snapshot()
        body = [
            "<h1>tempo-anomaly-exporter</h1>",
            f"<p>Watching {escape(self._tempo_url)} · {self._judged(snapshot)} · {_LINKS}</p>",
            *_anomalous(snapshot),
            *_history(self._backfill()),
            *_endpoints(snapshot),
            f"<p><small>version {escape(__version__)}</small></p>",
        ]
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tempo-anomaly-exporter</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
        )
        return Response(page.encode("utf-8", "replace"), "text/html; charset=utf-8")

    def _judged(self, snapshot: Snapshot | None) -> str:
        if snapshot is None or snapshot.judged_at is None:
            return "the current traffic has not been read yet"
        seconds = max(0, int(self._clock() - snapshot.judged_at))
        return f"judged {seconds} s ago"


def _anomalous(snapshot: Snapshot | None) -> Iterable[str]:
    yield "<h2>Anomalous now</h2>"
    if snapshot is None:
        yield "<p>Not known yet.</p>"
        return
    shifted = [status for status in snapshot.series if status.shift]
    if not shifted:
        yield '<p class="good">No endpoint is slower than usual.</p>'
    for status in sorted(shifted, key=lambda status: -(status.score or 0)):
        since = "" if status.since is None else f" since {_instant(status.since)}"
        why = "" if status.explanation is None else f"<br>{escape(str(status.explanation))}"
        yield f'<div class="why"><span class="bad">{_name(status)}</span>{since}{why}</div>'


def _history(status: BackfillStatus | None) -> Iterable[str]:
    yield "<h2>History</h2>"
    if status is None:
        yield "<p>Backfill is switched off.</p>"
        return
    progress = status.progress
    yield f'<progress value="{progress.ratio:.4f}" max="1">{progress.ratio:.0%}</progress>'
    yield (
        f"<p>{progress.ratio:.0%} of {progress.windows:,} windows: {progress.done:,} read, {progress.empty:,} empty, "
        f"{progress.partial:,} partial, {progress.failed:,} failed, {progress.expired:,} expired, "
        f"{progress.pending:,} to go.</p>"
    )


def _endpoints(snapshot: Snapshot | None) -> Iterable[str]:
    statuses: Sequence[SeriesStatus] = snapshot.series if snapshot else ()
    yield f"<h2>Endpoints ({len(statuses):,})</h2>"
    if not statuses:
        yield "<p>None yet.</p>"
        return
    yield f'<div class="wide"><table><thead>{_COLUMNS}</thead><tbody>'
    by_score = sorted(statuses, key=lambda status: (-(status.score or 0), status.key))
    for status in by_score[:_SHOWN_ENDPOINTS]:
        baseline = status.baseline
        cells = (
            status.current_p50_seconds,
            None if baseline is None else baseline.p50_seconds,
            status.current_p95_seconds,
            None if baseline is None else baseline.p95_seconds,
        )
        yield f"<tr><td>{escape(status.key.service_name)}<td>{escape(status.key.span_name)}"
        yield "".join(f'<td class="n">{"–" if cell is None else duration(cell)}' for cell in cells)
        yield f'<td class="n">{"–" if status.current_traces is None else f"{status.current_traces:,}"}'
        yield f'<td class="n{" bad" if status.shift else ""}">{"–" if status.score is None else f"{status.score:.2f}"}'
        yield f"<td>{_LEVELS[status.level]}{' (learning)' if status.learning else ''}</tr>"
    yield "</tbody></table></div>"
    if len(statuses) > _SHOWN_ENDPOINTS:
        yield f"<p><small>The {_SHOWN_ENDPOINTS} with the highest score are shown.</small></p>"


def _name(status: SeriesStatus) -> str:
    return f"{escape(status.key.service_name)} {escape(status.key.span_name)}"


def _instant(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
