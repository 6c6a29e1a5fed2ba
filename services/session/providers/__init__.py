"""Translators: a provider's frames into our inputs, and our requests into its frames. Pure."""
