"""Requests, tokens and days that annotating a data set of the published size takes."""
