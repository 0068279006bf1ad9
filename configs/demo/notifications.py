"""Webhook of the demo: prints the receiver (the path) and one line for each alert of a notification."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Webhook(BaseHTTPRequestHandler):
    """Accept notifications of Alertmanager."""

    def do_POST(self) -> None:
        """Print one notification."""
        notification = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(f"{self.path.strip('/')}: {notification['status']}")  # noqa: T201 - its output
        for alert in notification["alerts"]:
            text = alert["annotations"].get("description") or alert["annotations"].get("summary", "")
            print(f"  {alert['status']:<8} {alert['labels']['alertname']}: {' '.join(text.split())}")  # noqa: T201
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Log no requests."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 9099), Webhook).serve_forever()
