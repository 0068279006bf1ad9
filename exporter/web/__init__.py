"""The HTTP side: ``/metrics``, probes, the JSON API and the HTML pages.

A scrape and a probe answer from memory and never wait. The API and the pages about one endpoint query SQLite, and the
API may also query Tempo; separate worker threads keep those waits away from scrapes (:mod:`exporter.web.server`).
"""
