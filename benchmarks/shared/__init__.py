"""What also runs in the environments of others: standard library only."""
