"""The plain bodies: one file for each file of quire/ops, importing it registers its bodies."""
