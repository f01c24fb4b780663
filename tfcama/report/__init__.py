"""Results to people: one frozen JSON schema, PNGs, and one self-contained HTML page."""
