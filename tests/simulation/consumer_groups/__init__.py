"""The machine of KIP-848 alone, in virtual time, with members of both protocols."""
