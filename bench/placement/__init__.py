"""Placement by measured load against placement by counts and EPLB, under loads that are skewed and change."""
