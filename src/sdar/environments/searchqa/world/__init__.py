"""What questions are generated from: facts, archives that file them, passages that state them."""
