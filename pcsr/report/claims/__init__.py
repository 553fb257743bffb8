"""Claims: published numbers, in tables and test logs, beside what was measured."""
