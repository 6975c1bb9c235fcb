"""Programs that work on a running Orderflow from outside: clusters on one machine, chaos runs, the bench."""
