"""Guesses several tokens ahead without a second model; a step then checks them all at once."""
