"""Studies by simulation: predictions, each with its command, figures and plot in docs/studies/."""
