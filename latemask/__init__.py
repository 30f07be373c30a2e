"""latemask: pre-train masked language models whose [MASK] tokens come late."""
