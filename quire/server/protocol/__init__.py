"""The types of the HTTP interface: what we accept and what we answer, field by field."""
