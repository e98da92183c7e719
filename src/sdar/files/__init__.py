"""Files that are whole or not there: atomic writes, JSON lines, digests."""
