"""How models lie on disk and on the Hub."""
