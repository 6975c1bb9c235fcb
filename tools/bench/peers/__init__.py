"""What Orderflow is compared with: the same business done plainly, and what the server alone could do."""
