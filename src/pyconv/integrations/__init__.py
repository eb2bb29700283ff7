"""Other libraries: each module here imports one, and works once that is installed."""
