"""A module without a dispatcher."""
