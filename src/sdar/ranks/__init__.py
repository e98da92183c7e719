"""Many processes that train as one: how they meet, add up, and notice a lost one."""
