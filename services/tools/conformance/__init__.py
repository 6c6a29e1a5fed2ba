"""The conformance kit: plays the dispatcher and tries whether a worker keeps the protocol."""
