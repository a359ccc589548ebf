"""One reader of the database, several servers: what passes between them."""
