"""The pages for people, rendered here and now from the snapshot: no script, nothing from elsewhere, safe for any name.

HTML is built of ``htpy`` elements, which escape whatever is put into them.
"""
