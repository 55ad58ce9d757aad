"""Looking at what is stored from outside: is it whole, and what is in it."""
