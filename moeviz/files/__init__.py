"""Files: the trace file and counts, what other tools write and read, and the library of kept traces."""
