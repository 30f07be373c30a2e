"""Which tokens are hidden: ids_BxL -> `Masked`."""
