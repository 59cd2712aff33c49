"""Evaluate a run on published benchmarks: scores with the protocol by which they were obtained.

Entry points: `evaluate.evaluate` (`lit-hour evaluate`) and `report.text.compare_reports`
(`lit-hour compare`). Loading questions, scoring and reports work without torch.
"""
