"""Prints what Alertmanager would have told people: the path says whom, and each alert is a line."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Webhook(BaseHTTPRequestHandler):
    """Takes notifications."""

    def do_POST(self) -> None:
        """Print one."""
        notification = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(f"{self.path.strip('/')}: {notification['status']}")  # noqa: T201 - its log is what it is for
        for alert in notification["alerts"]:
            said = alert["annotations"].get("description") or alert["annotations"].get("summary", "")
            print(f"  {alert['status']:<8} {alert['labels']['alertname']}: {' '.join(said.split())}")  # noqa: T201
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing of requests."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 9099), Webhook).serve_forever()
