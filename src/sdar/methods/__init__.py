"""What a method is and what a gate is: declarations, without torch."""
