from exporter.evaluation.snapshot import Snapshot
from exporter.web.http import HttpRequest
from exporter.web.management import healthy, ready

REQUEST = HttpRequest("/", {}, "", accepts_gzip=False)


def test_healthy_while_the_process_works() -> None:
    assert healthy(REQUEST).status == 200


def test_ready_once_there_is_a_snapshot() -> None:
    assert ready(None).status == 503
    assert b"not ready" in ready(None).body
    assert ready(Snapshot(None)).status == 200
