"""Who may call, and how often: authentication, scopes, rate limits, admission, host names, limits of streams."""
