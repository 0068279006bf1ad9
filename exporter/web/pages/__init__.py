"""The HTML pages, rendered on the server from the snapshot and the stored history: no script, no external resource.

Pages are built from ``htpy`` elements, which escape every text: span names can contain anything.
"""
