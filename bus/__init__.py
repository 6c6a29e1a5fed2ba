"""What crosses a process: messages, topics, frames, and the one module that touches ZeroMQ."""
