"""Many processes that train as one: how they meet, sum, and notice that one has died."""
