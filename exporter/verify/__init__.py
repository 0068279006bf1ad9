"""The ``verify`` command: checks over HTTP whether a running exporter works and can be relied on."""
