"""The conformance suite: cases in YAML, each played in many ways. See README.md."""
