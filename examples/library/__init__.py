"""Money moves between accounts: a saga that the application's own processes run."""
