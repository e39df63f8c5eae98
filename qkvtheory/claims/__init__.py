"""Claims: what is stated, under which hypotheses, from which source, and how it is checked."""
