"""Endurance: a real replica under clients, servers and operators that misbehave, for minutes or hours; see __main__."""
