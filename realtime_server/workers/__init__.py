"""One machine's cores: a supervisor that reads the database, and workers that serve clients."""
