"""The lanes: independent ways to check one statement, each of which can fail."""
