"""Parts of the random test of row level security, which ``fuzz_rls`` runs."""
