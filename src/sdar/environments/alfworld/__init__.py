"""ALFWorld: household tasks in text, on TextWorld's grammar and fast-downward's library."""
