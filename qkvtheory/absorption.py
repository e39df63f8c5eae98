"""MLPs that take a linear map into themselves: flipped units, and spare ones."""
