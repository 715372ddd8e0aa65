"""Joins of two inputs on a key and event time: as-of, reference (versions of a table), interval.

All three take both inputs whatever is behind (a join that refused to read one side could stop the job), hold what they need
until the merged watermark lets it go, and give results when it advances; so results depend neither on how the inputs
interleave nor on how items were batched. Items behind the watermark are late.
"""
