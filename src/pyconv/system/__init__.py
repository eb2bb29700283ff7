"""Files, processes, devices, and the frame of the commands."""
