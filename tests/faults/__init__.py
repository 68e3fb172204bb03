"""Faults on a real cluster under real traffic, by seeded schedules."""
