"""Questions: records, and the files that they are read from.

`file.read_questions` is the entry point.
"""
