"""What is measured of a trained model, and plots."""
