"""The machine of classic groups alone, in virtual time: clients that join, fall silent, come back and misbehave."""
