"""The account of a shift's cause: what the extra time of an endpoint's requests consists of, and whose it is.

Two sets of traces of one endpoint are compared, slow ones of an incident and healthy ones. The account is exact for the
traces that were looked at; nothing is modelled. docs/cause.md has the method.
"""
