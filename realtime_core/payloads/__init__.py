"""Changes as JSON: what the server sends to clients of ``postgres_changes``."""

from .projection import Projection, change_as_json, identity_of, row_as_json

__all__ = ["Projection", "change_as_json", "identity_of", "row_as_json"]
