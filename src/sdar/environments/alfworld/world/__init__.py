"""What games are generated from: homes and their habits, scenes, and small and full rooms."""
