"""What the server asks its database besides the stream: catalog, connections, publications."""
