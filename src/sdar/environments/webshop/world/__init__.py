"""What a shop is generated from: its lines, its words, its products."""
