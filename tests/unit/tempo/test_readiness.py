"""What Tempo says about itself while requests time out."""

import threading
from collections.abc import Callable

import pytest

from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, TempoClient, TempoError
from exporter.tempo.failures import HttpResponse
from exporter.tempo.readiness import Readiness
from tests.support.tempo_server import FakeTempo, Handler, Recorder, Responder, fake_tempo, hanging, replying

STOPPING = replying("Application is stopping", status=503, content_type="text/plain")


def by_path(search: Responder, ready: Responder) -> Responder:
    def respond(handler: Handler) -> None:
        (ready if handler.path == "/ready" else search)(handler)

    return respond


def failed_search(tempo: FakeTempo) -> TempoError:
    """Search with three attempts, each of which may take 0.3 s."""
    settings = ClientSettings(url=tempo.url, timeout_seconds=0.3)
    client = TempoClient(settings, Recorder(), get_logger("tempo"), pause=lambda _: False)
    with pytest.raises(TempoError) as caught:
        client.search(1_795_077_000, 1_795_077_060, loop="poll")
    return caught.value


@pytest.mark.parametrize(
    ("ready", "end"),
    [
        (STOPPING, " or lower polling.backfill_batch. Tempo says: Application is stopping."),
        (replying("ready\n", content_type="text/plain"), " Tempo says: ready."),
        (hanging, " Tempo does not answer /ready either."),
        (replying("<html>Sign in</html>", content_type="text/html"), " or lower polling.backfill_batch."),
        (replying({"error": "x"}), " or lower polling.backfill_batch."),
        (replying("no such page", status=404), " or lower polling.backfill_batch."),
        (replying("x" * 2000), " or lower polling.backfill_batch."),
        (replying(""), " or lower polling.backfill_batch."),
    ],
)
def test_a_timeout_quotes_what_tempo_says(ready: Responder, end: str) -> None:
    with fake_tempo() as tempo:
        tempo.answer(by_path(hanging, ready))
        error = failed_search(tempo)
        assert (error.reason, error.retryable) == ("timeout", True)
        assert str(error).endswith(end)
        assert [request.path for request in tempo.requests].count("/ready") == 1


@pytest.mark.parametrize(("ready", "is_slow"), [(STOPPING, False), (replying("ready"), True), (hanging, True)])
def test_a_search_is_not_too_slow_for_a_tempo_that_is_not_ready(ready: Responder, is_slow: bool) -> None:
    with fake_tempo() as tempo:
        tempo.answer(by_path(hanging, ready))
        assert failed_search(tempo).is_slow is is_slow


@pytest.mark.parametrize("search", [replying("no", status=500), replying("no", status=400), replying("<html>")])
def test_without_a_timeout_it_is_not_asked(search: Responder) -> None:
    with fake_tempo() as tempo:
        tempo.answer(by_path(search, STOPPING))
        assert "stopping" not in str(failed_search(tempo))
        assert "/ready" not in [request.path for request in tempo.requests]


class Asked:
    """A readiness with a scripted Tempo and clock."""

    def __init__(self, request: Callable[[], HttpResponse] | None = None) -> None:
        self.now = 100.0
        self.body = b"Application is stopping"
        self.requests = 0
        self.readiness = Readiness(request or self._request, mask=str.upper, monotonic=lambda: self.now)

    def _request(self) -> HttpResponse:
        self.requests += 1
        return HttpResponse("http://tempo/ready", 503, {}, self.body)


def test_it_is_asked_once_a_minute_and_quoted_until_then() -> None:
    asked = Asked()
    for _ in range(3):
        assert asked.readiness.explanation() == "Tempo says: APPLICATION IS STOPPING."
        asked.now += 19
    assert asked.requests == 1
    asked.now += 3
    asked.body = b"starting"
    assert asked.readiness.explanation() == "Tempo says: STARTING."
    assert asked.requests == 2


def test_the_answer_is_forgotten_after_a_success_but_not_asked_again_at_once() -> None:
    asked = Asked()
    asked.readiness.explanation()
    asked.readiness.forget()
    assert asked.readiness.explanation() == ""
    assert asked.requests == 1
    asked.now += 60
    assert asked.readiness.explanation() != ""


def test_a_request_that_times_out_while_another_one_asks_does_not_wait() -> None:
    is_asking, may_answer = threading.Event(), threading.Event()

    def request() -> HttpResponse:
        is_asking.set()
        may_answer.wait(30)
        return HttpResponse("http://tempo/ready", 503, {}, b"stopping")

    readiness = Asked(request).readiness
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(readiness.explanation()))
    thread.start()
    is_asking.wait(30)
    assert readiness.explanation() == ""
    may_answer.set()
    thread.join()
    assert answers == [readiness.explanation()] == ["Tempo says: STOPPING."]
