"""Rollouts: engines sample the policy's responses, environments answer them."""
