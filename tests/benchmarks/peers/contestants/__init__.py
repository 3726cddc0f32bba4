"""How each contestant starts, submits and fetches; a module each, imported only in the session that runs it."""
