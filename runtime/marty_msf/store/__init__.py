"""Every SQL statement of Marty, one module per table family. Callers own the transactions unless a docstring says otherwise."""
