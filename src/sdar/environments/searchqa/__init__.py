"""Search-QA: questions answered with a search engine, in the Search-R1 protocol."""
