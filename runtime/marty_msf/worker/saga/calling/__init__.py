"""How steps are called: over HTTP, as functions of the user, from the cache; and what holds calls back."""
