"""The article's claims: planned, run, judged, drawn."""
