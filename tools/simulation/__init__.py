"""The simulation: one seed decides schedule, clock, deaths and faults over the real modules on a real mongod."""
