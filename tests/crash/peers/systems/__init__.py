"""How each system's worker is started and its jobs are submitted; a module each, imported only where it runs."""
