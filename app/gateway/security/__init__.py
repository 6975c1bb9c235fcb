"""Who may call and how often: authentication, rate limits, admission, hosts, connection limits."""
