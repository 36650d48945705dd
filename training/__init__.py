"""The offline half of Retort: from a file of interactions to a distilled student in a bundle."""
