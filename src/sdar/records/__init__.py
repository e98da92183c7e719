"""What runs leave behind, for those who write it and those who read it."""
