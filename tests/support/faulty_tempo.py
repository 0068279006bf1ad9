"""Responders and servers that put faults in front of a Tempo with known traces."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from exporter.demo.routes import ApiOptions, TempoApi
from tests.support.tempo_server import Handler, Responder
from tests.support.traffic import Traffic

_GATE_SECONDS: Final = 60


def serving(traffic: Traffic, clock: Callable[[], float]) -> Responder:
    """Return a responder that serves traffic as Tempo does."""
    api = TempoApi(traffic.store(), ApiOptions(), clock)

    def respond(handler: Handler) -> None:
        target = urlsplit(handler.path)
        answer = api.respond(target.path, dict(parse_qsl(target.query, keep_blank_values=True)))
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        handler.send(answer.status, answer.body, headers)

    return respond


class WrongAnswerError(Exception):
    """Raised by a lie to refuse a request, with a status and a body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status = status


Lie = Callable[[str, Mapping[str, str], dict[str, Any]], None]
"""Changes the correct answer to a request: path, parameters, and the document, in place; raises WrongAnswerError."""


def lying(traffic: Traffic, clock: Callable[[], float], lie: Lie, options: ApiOptions | None = None) -> Responder:
    """Return a responder that serves traffic as a Tempo that is wrong: with status 200, unless it refuses."""
    api = TempoApi(traffic.store(), options or ApiOptions(), clock)

    def respond(handler: Handler) -> None:
        target = urlsplit(handler.path)
        params = dict(parse_qsl(target.query, keep_blank_values=True))
        answer = api.respond(target.path, params)
        status, body = answer.status, answer.body
        if status == 200 and answer.content_type == "application/json":
            document = json.loads(body)
            try:
                lie(target.path, params, document)
                body = json.dumps(document).encode()
            except WrongAnswerError as wrong:
                status, body = wrong.status, str(wrong).encode()
        handler.send(status, body, {"Content-Type": answer.content_type, "Content-Length": str(len(body))})

    return respond


class FaultFirst:
    """Answers the first request for each URL with one of the faults in turn, and repetitions correctly."""

    def __init__(self, faults: list[Responder], correct: Responder) -> None:
        self._faults = faults
        self._correct = correct
        self._requested: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, handler: Handler) -> None:
        with self._lock:
            is_repeated = handler.path in self._requested
            self._requested.add(handler.path)
            number = len(self._requested)
        (self._correct if is_repeated else self._faults[number % len(self._faults)])(handler)


class Gate:
    """Holds every request until it is opened."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._opened = threading.Event()

    def open(self) -> None:
        """Answer the waiting requests and all later ones."""
        self._opened.set()

    def __call__(self, handler: Handler) -> None:
        self._opened.wait(_GATE_SECONDS)
        self._responder(handler)


@contextmanager
def silent_tempo() -> Iterator[str]:
    """Listen without accepting connections and yield the URL: clients connect and send, and get no response."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
