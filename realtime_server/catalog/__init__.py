"""The catalog: what PostgreSQL says of its tables now, and whether they are as a join has them."""
