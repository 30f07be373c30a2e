"""What a run is told: configs by name, and what a key may be."""
