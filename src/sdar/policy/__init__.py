"""The policy: a causal language model, its tokenizer, its shape, its log-probabilities."""
