"""The processes: each service decides in a pure middle and waits in a thin shell."""
