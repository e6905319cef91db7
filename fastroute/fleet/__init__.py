"""What the replicas of one fleet tell each other through the store: sealed messages, who is there, health, load."""
