"""How many parameters of a head, a layer, a network are redundant: the predictions."""
