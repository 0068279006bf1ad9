"""The MCP server: tools for agents over the HTTP API of a running exporter, read-only."""
