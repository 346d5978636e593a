"""From files to arrays: the `data:` section of a config, the formats it may name, and their splits.

`section` holds the typed fields and imports pydantic alone, so that a config can be checked without NumPy;
everything else is imported from its module by whoever needs it.
"""
