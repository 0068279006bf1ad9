"""The HTTP server: sockets, TLS, worker threads and timeouts."""
