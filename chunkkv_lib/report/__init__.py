"""Records -> what a page says: statistics, verdicts, tables and figures."""
