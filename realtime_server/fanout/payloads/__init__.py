"""What a change looks like on the wire."""
