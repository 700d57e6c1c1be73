"""Seeds for each purpose, derived from one seed."""

import hashlib


def seed_for(seed: int, *purpose: object) -> int:
    """Derive an independent 63-bit seed for a purpose, such as ("order", epoch)."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
