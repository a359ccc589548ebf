"""Fan-out: from a change to the channels that get it, and the bytes that each is sent."""
