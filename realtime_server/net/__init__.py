"""Network: the listening port, HTTP, WebSockets, and one client's connection with its limits."""
