"""HTTP, both sides: what guards our servers, and what our clients have in common."""
