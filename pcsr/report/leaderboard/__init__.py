"""The leaderboard, with what others ``contributed`` and ``timings`` of devices."""
