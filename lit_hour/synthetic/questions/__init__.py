"""Questions about synthetic stories, with answers and evidence: one module per topic.

`generate.generate_questions` is the entry point.
"""
