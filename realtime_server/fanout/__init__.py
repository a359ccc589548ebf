"""From a change to the channels that get it."""
