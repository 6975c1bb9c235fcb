"""The peers of Orderflow: plain applications with the same function, and one that does nothing."""
