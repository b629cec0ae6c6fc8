"""L5: the catalogue of attacks."""
