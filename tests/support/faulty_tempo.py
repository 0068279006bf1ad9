"""A Tempo over known traces that a test can put faults before."""

import threading
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from exporter.demo.routes import ApiOptions, TempoApi
from tests.support.tempo_server import Handler, Responder
from tests.support.traffic import Traffic

_PATIENCE_SECONDS = 60


def answering(traffic: Traffic, clock: Callable[[], float]) -> Responder:
    """Answer as Tempo would."""
    api = TempoApi(traffic.store(), ApiOptions(), clock)

    def respond(handler: Handler) -> None:
        target = urlsplit(handler.path)
        answer = api.respond(target.path, dict(parse_qsl(target.query, keep_blank_values=True)))
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        handler.send(answer.status, answer.body, headers)

    return respond


class FirstATime:
    """Answers each search with a fault at first, another one each time, and with the truth when it is repeated."""

    def __init__(self, faults: list[Responder], truth: Responder) -> None:
        self._faults = faults
        self._truth = truth
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, handler: Handler) -> None:
        with self._lock:
            known = handler.path in self._asked
            self._asked.add(handler.path)
            number = len(self._asked)
        (self._truth if known else self._faults[number % len(self._faults)])(handler)


class Gate:
    """Lets nobody through until it is opened."""

    def __init__(self, truth: Responder) -> None:
        self._truth = truth
        self._opened = threading.Event()

    def open(self) -> None:
        """Answer from now on, those who wait first."""
        self._opened.set()

    def __call__(self, handler: Handler) -> None:
        self._opened.wait(_PATIENCE_SECONDS)
        self._truth(handler)
