"""The machine: files, processes, signals, devices, random keys."""
