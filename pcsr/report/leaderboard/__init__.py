"""The leaderboard, with results ``contributed`` by others and ``timings`` of devices."""
