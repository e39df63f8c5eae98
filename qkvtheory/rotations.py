"""What a norm leaves of the eliminations: bases that are rotations."""
