"""The embedded default: a small trained network and 1,000 real labelled images."""
