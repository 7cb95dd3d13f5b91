"""Models of our own: small enough to commit, exact enough that a test can check their answers."""
