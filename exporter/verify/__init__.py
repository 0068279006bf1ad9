"""Looks at a running exporter from outside, over HTTP only, and says whether it can be relied upon."""
