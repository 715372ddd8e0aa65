"""The store: key names, the commit, control data, status, and the embedded server. The only importers of ``redis``
besides the stream channel."""
